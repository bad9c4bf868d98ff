"""The numbers that the rules use. A value given to ``Cluster``; the settings tree above core fills it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from arcray.core.ids import AccountId
from arcray.core.quota import NO_QUOTA, Quota
from arcray.core.tariff import FREE, Prices

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
        round_decisions: placements and refusals in one scheduling round, a gang's counted by its members; the next
            round goes on from there.
        prices: what work costs that brings no tariff of its own.
        charge_period: for how long ahead credits are set aside, and how often they are settled.
        operator_account: who is paid for what runs on the pool's own nodes, and gets the operator's share of the rest.
        owner_share_percent: what the owner of a node gets of what its work pays; the operator gets the rest.
        max_account_keys: API keys of one account.
        preemption_grace: time that work gets to end when it is preempted, or stopped with its gang.
        preemption_patience: how much longer than that grace a preemptor waits for it to have ended; then it waits for
            any place again.
        preemption_searches: in one scheduling round; the others are made in the next ones.
        max_gang_size: members of one gang.
        gang_timeout: longest wait for the last member of a gang; then those that came are rejected.
        gang_starts: restarts of a gang that fails before all of it runs, whatever its restart policy.
        gang_patience: wait of a complete gang after which work behind it leaves it the nodes that it could use.
        gang_hold: longest time that it is left them at a stretch; then others go first for as long.
        max_reservations: active at a time.
        max_reservation: longest time that one is held.
        max_slices: of one reservation.
        keep_reservations: ended ones kept in memory.
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
    round_decisions: int = 128  # 9 ms at 1,000 nodes if all are refused
    prices: Prices = FREE
    charge_period: timedelta = timedelta(seconds=60)
    operator_account: AccountId = AccountId("operator")
    owner_share_percent: int = 100
    max_account_keys: int = 1_000
    preemption_grace: timedelta = timedelta(seconds=30)
    preemption_patience: timedelta = timedelta(seconds=60)
    preemption_searches: int = 32
    max_gang_size: int = 256
    gang_timeout: timedelta = timedelta(seconds=300)
    gang_starts: int = 3
    gang_patience: timedelta = timedelta(seconds=60)
    gang_hold: timedelta = timedelta(seconds=600)
    max_reservations: int = 10_000
    max_reservation: timedelta = timedelta(hours=24)
    max_slices: int = 64
    keep_reservations: int = 1_000
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

    @property
    def longest_inference(self) -> timedelta:
        """The most that the rules let a request take, however often it is tried.

        Twice the patience more than all attempts take: one while nodes refuse it, one to its last try after that.
        """
        return self.inference_attempts * (self.routing_patience + self.inference_timeout) + 2 * self.routing_patience
