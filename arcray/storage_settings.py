"""Settings of what is kept: the blob store and the database. Part of the tree in ``config``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["BlobSettings", "DatabaseSettings"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlobSettings(_Section):
    """Logs, results, archives and model files.

    Args:
        url: any fsspec URL; "" is ``blobs`` in the state directory.
        max_blob_bytes: largest single blob.
    """

    url: str = ""
    max_blob_bytes: int = Field(default=2 * 2**30, ge=1024)


class DatabaseSettings(_Section):
    """How long the database may take, before it counts as away and writes are refused.

    Args:
        connect_timeout_s: longest wait for a connection to PostgreSQL.
        busy_timeout_s: longest wait for someone else's lock, on a SQLite file or on PostgreSQL's rows.
        statement_timeout_s: longest statement on PostgreSQL, migrations excepted; what a lost network costs at most.
        commit_timeout_s: longest transaction; its callers are then told that nobody knows what became of it.
        stand_still_s: longest that the scheduler does nothing else while a transaction is written. It does so only
            while they are shorter than that, because waiting is then cheaper than going on meanwhile; 0 is never.
    """

    connect_timeout_s: float = Field(default=5.0, ge=1)
    busy_timeout_s: float = Field(default=5.0, gt=0)
    statement_timeout_s: float = Field(default=20.0, gt=0)
    commit_timeout_s: float = Field(default=30.0, gt=0)
    stand_still_s: float = Field(default=0.005, ge=0, le=0.1)

    @model_validator(mode="after")
    def _a_transaction_outlasts_its_statements(self) -> DatabaseSettings:
        longest = max(self.connect_timeout_s, self.busy_timeout_s, self.statement_timeout_s)
        if longest >= self.commit_timeout_s:
            raise ValueError(f"commit_timeout_s must be above the other times, of which one is {longest:g} s")
        return self
