"""Settings of the HiveMind facade. Part of the tree in ``config``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["HivemindSettings"]

_KEY_BYTES = 32  # what the tokens' algorithm asks for at the least


class HivemindSettings(BaseModel):
    """HiveMind: users, tasks and worker nodes over gRPC.

    Args:
        strict: every call but Register and Login wants a token in its metadata. Without it those of the documents'
            examples do not, and who shows none sees and stops everything, and hands in tasks in anybody's name. None is
            strict where ``auth.mode`` is keys.
        open_registration: whether strangers may register. None is yes where ``auth.mode`` is open.
        token_key: secret that tokens are signed with, of 32 bytes or more, the same for every gateway; "" is one in the
            state directory, made by the first gateway.
        token_lifetime_s: how long a login lasts.
        initial_balance: credits that a user begins with.
        house_rate_per_minute: credits for each begun minute of a task on the pool's own nodes.
        show_cluster_nodes: whether lists of nodes have those that joined by other protocols.
        max_hashing: passwords that one gateway works on at a time; each takes 19 MiB and a core for 40 ms.
        guesses, guesses_per_minute: wrong passwords of one user that a gateway takes at once, and as time goes by.
        dial_timeout_s: longest wait for a worker to take or to stop a task; a second more for each MiB.
        max_dials: orders that wait for one worker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strict: bool | None = None
    open_registration: bool | None = None
    token_key: str = Field(default="", repr=False)
    token_lifetime_s: int = Field(default=86_400, ge=60, le=10**9)
    initial_balance: int = Field(default=100, ge=0, le=10**12)
    house_rate_per_minute: int = Field(default=0, ge=0, le=10**9)
    show_cluster_nodes: bool = False
    max_hashing: int = Field(default=2, ge=1, le=64)
    guesses: int = Field(default=10, ge=1, le=10_000)
    guesses_per_minute: float = Field(default=6.0, gt=0, le=10_000)
    dial_timeout_s: float = Field(default=10.0, gt=0, le=600)
    max_dials: int = Field(default=256, ge=1)

    @field_validator("token_key")
    @classmethod
    def _the_key_is_long_enough(cls, key: str) -> str:
        if key and len(key.encode()) < _KEY_BYTES:
            raise ValueError(f"must have {_KEY_BYTES} bytes or more")
        return key
