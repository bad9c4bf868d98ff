"""The numbers that the rules use. A value given to ``Cluster``; the settings tree above core fills it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from arcray.core.quota import NO_QUOTA, Quota

__all__ = ["ClusterPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicy:
    """Limits and times of one cluster.

    Args:
        max_pending: workloads that may wait for a place.
        max_waiting: inference requests that may wait for a slot.
        routing_patience: longest wait of an inference request for a node; after it the request is rejected.
        inference_timeout: longest time of a request on its node; then its slot is free and it failed.
        inference_attempts: nodes tried when nodes are lost under a request.
        saturation: utilization at which a node without slot control takes nothing more.
        stale_after: age of a reading from which such a node takes nothing.
        score: which of ArcNet's two formulas ranks nodes.
        keep_finished: ended workloads kept in memory; inference requests are counted apart.
        restart_backoff, restart_backoff_max: first and longest wait before a restart.
        round_batch: placements in one scheduling round.
        restart_rest: an attempt that ran this long counts restarts, and their back-off, from nothing again.
        max_duration: longest that containers and programs may ask to run; None is no limit.
        default_max_duration: what those get that ask for none; None is ``max_duration``.
        overtime_grace: how much longer than it may work runs before the scheduler does what its node forgot.
        default_quota: of accounts that an operator gave none.
    """

    max_pending: int = 100_000
    max_waiting: int = 10_000
    routing_patience: timedelta = timedelta(milliseconds=700)
    inference_timeout: timedelta = timedelta(seconds=30)
    inference_attempts: int = 3
    saturation: float = 0.85
    stale_after: timedelta = timedelta(seconds=30)
    score: Literal["code", "documents"] = "code"
    keep_finished: int = 1_000
    keep_finished_inference: int = 4_096
    restart_backoff: timedelta = timedelta(seconds=1)
    restart_backoff_max: timedelta = timedelta(seconds=300)
    round_batch: int = 1_000
    restart_rest: timedelta = timedelta(seconds=600)
    max_duration: timedelta | None = None
    default_max_duration: timedelta | None = None
    overtime_grace: timedelta = timedelta(seconds=30)
    default_quota: Quota = NO_QUOTA

    def backoff(self, restarts: int) -> timedelta:
        """Returns the wait before restart number ``restarts`` (0 for the first).

        Without jitter: restarts become due in one queue of one scheduler, which places them one after the other, so
        there is no crowd to spread; and what happens stays a function of what happened.
        """
        doubled = self.restart_backoff * (1 << min(restarts, 30))
        return min(doubled, self.restart_backoff_max)
