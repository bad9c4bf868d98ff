"""Settings of retention: how long what has ended is kept. A section of the tree of ``config``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RetentionSettings"]


class RetentionSettings(BaseModel):
    """How long what has ended is kept. What is alive, or referred to by something alive, is never deleted.

    An idempotency key is remembered for 24 hours whatever stands here.

    Args:
        workloads_s: from the end of a workload to the deletion of its record, log, results and program; None is for
            ever.
        max_workloads: records of ended workloads; beyond it the oldest go earlier. None is no limit.
        inference_s, max_inference: the same for inference requests.
        events_s, max_events: the same for the history of nodes, models and workloads.
        reservations_s, max_reservations: the same for reservations that have ended, their idempotency keys included.
        nodes_s, max_nodes: the same for nodes that have left or are lost, from when they were last heard. What an
            operator set on one (a cordon, a drain, labels) goes with it; one that comes back later is a new one.
        orphans_s: age at which a blob that belongs to no workload or model is deleted, and time between two looks for
            them; None does not look.
        interval_s: time between two looks.
        batch: rows looked at and deleted at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workloads_s: float | None = Field(default=30 * 86_400.0, ge=3_600)
    max_workloads: int | None = Field(default=1_000_000, ge=1_000)
    inference_s: float | None = Field(default=7 * 86_400.0, ge=3_600)
    max_inference: int | None = Field(default=1_000_000, ge=1_000)
    events_s: float | None = Field(default=30 * 86_400.0, ge=3_600)
    max_events: int | None = Field(default=10_000_000, ge=1_000)
    reservations_s: float | None = Field(default=30 * 86_400.0, ge=3_600)
    max_reservations: int | None = Field(default=100_000, ge=1_000)
    nodes_s: float | None = Field(default=30 * 86_400.0, ge=3_600)
    max_nodes: int | None = Field(default=10_000, ge=100)
    orphans_s: float | None = Field(default=86_400.0, ge=3_600)
    interval_s: float = Field(default=60.0, gt=0)
    batch: int = Field(default=200, ge=1, le=1_000)
