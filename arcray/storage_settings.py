"""Settings of what is kept, and where: the blob store and the database. Part of the tree in ``config``.

A path means itself, whatever letters it has, and is absolute from here on: it is read by other processes, which work in
other directories.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from arcray.paths import absolute

__all__ = ["BlobSettings", "DatabaseSettings", "checked_database_url"]

_DRIVERS: Final = frozenset({"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"})
_FORMS: Final = "give sqlite:///path or postgresql://user:password@host/name"
_PORTS: Final = range(1, 65_536)
_LOCAL: Final = ("file://", "local://")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BlobSettings(_Section):
    """Logs, results, archives and model files.

    Args:
        url: any fsspec URL, or a path; "" is ``blobs`` in the state directory.
        max_blob_bytes: largest single blob.
    """

    url: str = ""
    max_blob_bytes: int = Field(default=2 * 2**30, ge=1024)

    @field_validator("url")
    @classmethod
    def _paths_are_absolute(cls, url: str) -> str:
        if "\0" in url:
            raise ValueError("has a NUL in it")
        if url.startswith("://"):
            raise ValueError("has no scheme before ://")
        scheme = next((local for local in _LOCAL if url.startswith(local)), "")
        if not url or ("://" in url and not scheme):
            return url
        path = url.removeprefix(scheme)
        if scheme and not path.startswith(("/", "~")):
            raise ValueError(f"{scheme} is followed by an absolute path")
        return f"{_LOCAL[0]}{absolute(Path(path))}"

    @property
    def place(self) -> Path | str:
        """The path of a store on a disk, the URL of any other."""
        local = self.url.startswith(_LOCAL[0])
        return Path(self.url.removeprefix(_LOCAL[0])) if local else self.url


class DatabaseSettings(_Section):
    """How long the database may take, before it counts as away and writes are refused.

    Args:
        connect_timeout_s: longest wait for a connection to PostgreSQL.
        busy_timeout_s: longest wait for someone else's lock, on a SQLite file or on PostgreSQL's rows.
        statement_timeout_s: longest statement on PostgreSQL, migrations excepted; what a lost network costs at most.
        commit_timeout_s: longest transaction; its callers are then told that nobody knows what became of it.
        stand_still_s: while transactions on a SQLite file are shorter than that, the scheduler does nothing else during
            one, because going on meanwhile costs more; 0 is never. It stands still for as long as the disk does then.
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


def checked_database_url(text: str) -> str:
    """Returns the URL of a database that we can use, the path of a SQLite file in it absolute.

    Raises:
        ValueError: there is no such database; says no more of the URL than its scheme, because it may have a password.
    """
    from sqlalchemy import make_url  # costs 0.2 s, which most commands need not pay
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(f"is no URL of a database; {_FORMS}") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"{url.drivername} is not supported; {_FORMS}")
    if url.port is not None and url.port not in _PORTS:
        raise ValueError(f"{url.port} is no port")
    if url.get_backend_name() != "sqlite":
        return text
    if url.host or url.username or url.password or url.port:
        raise ValueError("SQLite has no host; a path comes after three slashes: sqlite:///path")
    if url.database in {None, "", ":memory:"} or "uri" in url.query:
        return text
    path = str(absolute(Path(str(url.database))))
    return text if path == url.database else url.set(database=path).render_as_string(hide_password=False)
