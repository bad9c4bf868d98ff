"""What is said of a workload that waits: for what, behind whom, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.placement.explain import Explanation, FilterRefusal
from arcray.core.quota import Excess
from arcray.core.workload import Phase

__all__ = ["StartEstimate", "WaitsFor", "WorkloadExplanation"]


class WaitsFor(StrEnum):
    """What a workload waits for."""

    NOTHING = "nothing"  # it is placed, or has ended
    BACK_OFF = "backOff"  # the wait before a restart
    QUOTA = "quota"  # its account holds all that it may
    GANG = "gang"  # the other members of its gang
    PLACE = "place"  # a node with room, or several at once for a gang; or the end of what was preempted for it
    SLOT = "slot"  # a copy of its model that takes another request
    TURN = "turn"  # a node has room; its turn in the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEstimate:
    """When a workload may start, going by how long such work has taken lately.

    Args:
        basis: what it goes by, for people.
    """

    earliest: datetime
    latest: datetime
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadExplanation:
    """What a workload waits for.

    Args:
        at: when this was said.
        placement: how it stands with every node, quota and queue aside.
        excesses: limits of its account's quota that are in its way.
        ahead: how many workloads are candidates before it.
        first_ahead: the first few of them that the asker may see.
        estimate: when it may start; None while no history says.
    """

    workload_id: WorkloadId
    account: AccountId
    at: datetime
    phase: Phase
    node_id: NodeId | None
    waits_for: WaitsFor
    placement: Explanation
    not_before: datetime | None = None
    excesses: tuple[Excess, ...] = ()
    ahead: int = 0
    first_ahead: tuple[WorkloadId, ...] = ()
    estimate: StartEstimate | None = None

    @property
    def refusals(self) -> tuple[FilterRefusal, ...]:
        """The filters and what they refused. The quota is the first of them: where it refuses, no node is looked at."""
        if not self.excesses:
            return self.placement.refusals
        why = ", ".join(map(str, self.excesses))
        return (FilterRefusal(filter="quota", nodes=self.placement.nodes, reason=f"account {self.account} {why}"),)

    @property
    def suggestion(self) -> str:
        """The smallest change that would let it start; "" when none would, or none is needed."""
        if self.waits_for is not WaitsFor.QUOTA:
            return self.placement.suggestion
        return f"account {self.account} must give back what is over its quota, or get a larger one"

    def sentence(self) -> str:
        """Returns all of it in one sentence."""
        match self.waits_for:
            case WaitsFor.NOTHING:
                where = f" on node {self.node_id}" if self.node_id is not None else ""
                return "; ".join((f"it waits for nothing: it is {self.phase}{where}", *self.placement.notes))
            case WaitsFor.BACK_OFF:
                assert self.not_before is not None
                head = f"waits {max(0.0, (self.not_before - self.at).total_seconds()):.0f} s before it starts again"
            case WaitsFor.QUOTA:
                head = f"waits for its quota: {self.refusals[0].reason}"
            case WaitsFor.GANG:
                head = "; ".join(self.placement.notes) or "waits for its gang"
            case WaitsFor.TURN | WaitsFor.PLACE | WaitsFor.SLOT:
                head = self.placement.sentence()
            case _:
                assert_never(self.waits_for)
        ahead = f"; {self.ahead} ahead of it" if self.ahead else ""
        if self.estimate is None:
            return f"{head}{ahead}; when it starts is unknown"
        first = max(0.0, (self.estimate.earliest - self.at).total_seconds())
        last = max(0.0, (self.estimate.latest - self.at).total_seconds())
        return f"{head}{ahead}; starts in {first:.0f} to {last:.0f} s, because {self.estimate.basis}"
