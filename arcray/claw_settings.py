"""Settings of the claw facade. Part of the tree in ``config``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["ClawSettings"]


class ClawSettings(BaseModel):
    """claw-proto: nodes over WebSocket.

    Args:
        heartbeat_s: what nodes are told to send a heartbeat every so many seconds.
        metrics_s: and a reading.
        unhealthy_after_s: a node that is silent for so long takes no new work.
        lost_after_s: one that is silent for so long is lost, its work goes elsewhere, and its socket is closed.
        ping_s: between two measurements of how long a node takes to answer; 0 measures nothing.
        recall_s: how long a node that comes back may take to say which of its work it still has.
        registrations_per_minute: of one address, at once or spread over a minute; more are closed with 1013. 0 is no
            limit. Nodes behind one address, as a proxy's is, register all at once when the gateway has been away.
        max_sockets: nodes of one gateway process.
        socket_queue: frames that wait for one slow node; its orders wait with the scheduler when there are more.
        log_bytes: kept of what one workload writes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    heartbeat_s: int = Field(default=30, ge=1, le=3600)
    metrics_s: int = Field(default=10, ge=1, le=3600)
    unhealthy_after_s: float = Field(default=60.0, gt=0)
    lost_after_s: float = Field(default=150.0, gt=0)
    ping_s: float = Field(default=60.0, ge=0)
    recall_s: float = Field(default=5.0, gt=0, le=60)
    registrations_per_minute: int = Field(default=6_000, ge=0)
    max_sockets: int = Field(default=4_000, ge=1)
    socket_queue: int = Field(default=256, ge=16)
    log_bytes: int = Field(default=16 * 2**20, ge=1024)

    @model_validator(mode="after")
    def _the_lease_is_longer_than_a_beat(self) -> ClawSettings:
        if not self.heartbeat_s < self.unhealthy_after_s <= self.lost_after_s:
            raise ValueError(
                f"heartbeat_s {self.heartbeat_s} must be below unhealthy_after_s {self.unhealthy_after_s:g},"
                f" and that not above lost_after_s {self.lost_after_s:g}"
            )
        return self
