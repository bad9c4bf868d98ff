"""Gangs that are alive: who belongs to which, who waits, and which one is waited for.

What lives here: an index derived from the live workloads. What does not: when a gang is placed, stopped or rejected
(``handlers/gangs``, ``handlers/settling``).

A gang stands in the queue of pending work as one entry, under the id of its first member, while all of its members
wait. So gangs and single workloads go by the same order: priority, then arrival, which for a gang is that of its last
member. One gang at a time, the first that has waited too long, has nodes *held back* for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from arcray.core.deadlines import Deadlines
from arcray.core.gang import Gang
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.placement.engine import Engine
from arcray.core.placement.together import Shortfall
from arcray.core.workload import Phase, WorkloadSpec

__all__ = ["NO_NODES", "Break", "GangKey", "GangQueue", "GangState", "gang_key"]

GangKey: TypeAlias = tuple[str, AccountId, str]

NO_NODES: Final[frozenset[NodeId]] = frozenset()


def gang_key(account: AccountId, gang: Gang) -> GangKey:
    """Returns what tells a gang apart; it cannot equal a placement request, which stands in the same queue."""
    return ("gang", account, gang.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """What happened to a member that its gang does not survive as it is.

    Args:
        phase: how the member ended for good; None when another attempt of it follows.
        restart: whether that one counts as a restart.
    """

    member: WorkloadId
    phase: Phase | None
    reason: str
    restart: bool = False


class GangState:
    """One gang.

    Attributes:
        members: live ones, in order of arrival.
        deadline: until when it may be incomplete.
        complete_at: when the last one came; None while some are missing.
        bereft: a member has ended, so it can never start again as a whole.
        leader: under whose id it stands in the queue of pending work; None while it does not.
        usable: nodes to be held back for it, as they were at ``looked_at``, when ``seen`` counted the changes of nodes.
        uses_all: no node that takes work is left beside them.
        when_empty: what was missing for it even on empty nodes, None if nothing, when so many nodes had changed.
    """

    __slots__ = (
        "_waiting",
        "bereft",
        "complete_at",
        "deadline",
        "gang",
        "key",
        "leader",
        "looked_at",
        "members",
        "seen",
        "usable",
        "uses_all",
        "when_empty",
    )

    def __init__(self, key: GangKey, gang: Gang, deadline: datetime) -> None:
        self.key = key
        self.gang = gang
        self.members: dict[WorkloadId, None] = {}
        self.deadline = deadline
        self.complete_at: datetime | None = None
        self.bereft = False
        self.leader: WorkloadId | None = None
        self.usable: frozenset[NodeId] = NO_NODES
        self.uses_all = False
        self.seen = -1
        self.looked_at: datetime | None = None
        self.when_empty: tuple[int, Shortfall | None] | None = None
        self._waiting: dict[WorkloadId, datetime | None] = {}

    @property
    def ready(self) -> bool:
        """Whether all members are there and wait."""
        return not self.bereft and len(self._waiting) == self.gang.size

    @property
    def not_before(self) -> datetime | None:
        """When the last back-off of its members ends."""
        return max((time for time in self._waiting.values() if time is not None), default=None)

    def waits(self, workload_id: WorkloadId) -> bool:
        """Whether a member waits for a place."""
        return workload_id in self._waiting

    def wait(self, workload_id: WorkloadId, not_before: datetime | None) -> None:
        """Takes note that a member waits."""
        self._waiting[workload_id] = not_before

    def unwait(self, workload_id: WorkloadId) -> None:
        """Takes note that a member waits no longer."""
        del self._waiting[workload_id]


class GangQueue:
    """All gangs with a live member.

    Attributes:
        waiting: members that wait, whether their gang is complete or not.
        beside: those of each account, without the ones under whose id a gang stands in the queue of pending work.
        broken: gangs of which a member ended or was given up, to be settled in the same turn.
        held: nodes that work behind the holder leaves alone.
        held_all: those are all there are.
        held_until: when that ends at the latest.
        empty: nodes as if nothing ran on them, with which those are and the count of changes of nodes at which that was
            so; None before anybody asked.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.beside: Counter[AccountId] = Counter()
        self.broken: dict[GangKey, Break] = {}
        self.held: frozenset[NodeId] = NO_NODES
        self.held_all = False
        self.held_until: datetime | None = None
        self.empty: tuple[int, frozenset[NodeId], Engine] | None = None
        self._gangs: dict[GangKey, GangState] = {}
        self._holder: GangKey | None = None
        self._incomplete = Deadlines[GangKey](self._may_be_incomplete)

    def __len__(self) -> int:
        return len(self._gangs)

    def __iter__(self) -> Iterator[GangState]:
        return iter(self._gangs.values())

    def get(self, key: GangKey) -> GangState | None:
        """Returns a gang; None when no member of it is alive."""
        return self._gangs.get(key)

    def of(self, spec: WorkloadSpec) -> GangState:
        """Returns the gang of a live member."""
        assert spec.gang is not None
        return self._gangs[gang_key(spec.origin.account, spec.gang)]

    def join(self, spec: WorkloadSpec, at: datetime, deadline: datetime) -> None:
        """Takes a member up.

        Args:
            deadline: until when the gang may be incomplete, if this is its first member.
        """
        assert spec.gang is not None
        key = gang_key(spec.origin.account, spec.gang)
        state = self._gangs.get(key)
        if state is None:
            state = self._gangs[key] = GangState(key, spec.gang, deadline)
            self._incomplete.add(deadline, key)
        state.members[spec.id] = None
        if len(state.members) == spec.gang.size:
            state.complete_at = at

    def leave(self, spec: WorkloadSpec, phase: Phase, reason: str) -> None:
        """Takes note of the end of a member."""
        state = self.of(spec)
        del state.members[spec.id]
        state.bereft = True
        if phase is not Phase.SUCCEEDED:
            self.broken[state.key] = Break(member=spec.id, phase=phase, reason=reason)
        if not state.members:
            del self._gangs[state.key]
            self.broken.pop(state.key, None)

    def give_up(self, spec: WorkloadSpec, reason: str, *, restart: bool) -> None:
        """Takes note that an attempt of a member was given up. An end for good weighs more."""
        key = self.of(spec).key
        self.broken.setdefault(key, Break(member=spec.id, phase=None, reason=reason, restart=restart))

    def wait(self, account: AccountId) -> None:
        """Counts a member that waits."""
        self.waiting += 1
        self.beside[account] += 1

    def unwait(self, account: AccountId) -> None:
        """Counts a member no longer, which stands in the queue of pending work no more."""
        self.waiting -= 1
        self.beside[account] -= 1
        if not self.beside[account]:
            del self.beside[account]

    def bereave(self) -> None:
        """Finds, after a recovery, the gangs whose missing members have ended: they were complete to come this far."""
        for state in self._gangs.values():
            if len(state.members) < state.gang.size and state.complete_at is not None:
                state.bereft = True

    def hold_back(self, gang: GangState, until: datetime) -> None:
        """Holds back the nodes that a gang could use."""
        self._holder, self.held, self.held_all, self.held_until = gang.key, gang.usable, gang.uses_all, until

    def let_go(self, key: GangKey | None = None) -> bool:
        """Holds nothing back any more, for whom or for the named gang; returns whether anything was."""
        if self._holder is None or key not in (None, self._holder):
            return False
        self._holder, self.held, self.held_all, self.held_until = None, NO_NODES, False, None
        return True

    def set_aside(self, *, aside: bool) -> None:
        """Has the nodes be free for whom they are not held back against, or be held back again."""
        holder = self.holder
        if holder is not None:
            self.held, self.held_all = (NO_NODES, False) if aside else (holder.usable, holder.uses_all)

    @property
    def holder(self) -> GangState | None:
        """The gang for which nodes are held back."""
        return self._gangs.get(self._holder) if self._holder is not None else None

    def next_due(self) -> datetime | None:
        """Returns when the next incomplete gang is given up, or nodes are let go of."""
        times = (self._incomplete.next_due(), self.held_until)
        return min((time for time in times if time is not None), default=None)

    def overdue(self, now: datetime) -> Iterator[GangState]:
        """Yields the gangs whose last members have not come in time; the reader ends those that have."""
        return (self._gangs[key] for key in self._incomplete.over(now))

    def _may_be_incomplete(self, until: datetime, key: GangKey) -> bool:
        state = self._gangs.get(key)
        return state is not None and state.complete_at is None and state.deadline == until
