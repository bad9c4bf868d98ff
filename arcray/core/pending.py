"""The queue of work that waits for a place: containers, programs, model servers. Requests have ``slots``.

It is ordered by priority, then by arrival. Work is grouped by what it asks for and may do about it: within a round a
group whose head was refused is passed over, so a pass costs one decision per group and per placement, however long the
queue is and however many accounts share it. How rounds share a pass is in ``passes``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from datetime import datetime
from heapq import heapify, heappop, heappush, merge
from itertools import chain, islice
from typing import Final, NamedTuple, TypeAlias

from arcray.core.deadlines import Deadlines
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.passes import Pass
from arcray.core.workload import Priority

__all__ = ["NOBODY_AHEAD", "Ahead", "Lane", "PendingQueue"]


class Lane(NamedTuple):
    """Who waits together: work of one account, but what takes the place of other work by itself.

    The latter may hold what its account's quota leaves to nothing else, so it must not stand behind that.
    """

    account: AccountId
    instead_of: WorkloadId | None = None


_Key: TypeAlias = tuple[Priority, Hashable, bool]  # of a group: how urgent, what is asked, may it preempt
_Place: TypeAlias = tuple[_Key, Lane]

_FEW: Final = 64  # entries that are not worth sweeping
_NOBODYS: Final = Lane(AccountId(""))
_NO_LANES: Final[dict[_Place, OrderedDict[WorkloadId, int]]] = {}


class Ahead(NamedTuple):
    """Who is before a workload in the queue.

    Attributes:
        total: all of them.
        alike: those that ask for the same.
        first: the first few.
    """

    total: int
    alike: int
    first: tuple[WorkloadId, ...]


NOBODY_AHEAD: Final = Ahead(0, 0, ())


class _Group:
    """Work of one priority that asks for the same and may do the same for it, in lanes.

    Attributes:
        lanes: in order of arrival within each; the numbers grow over all groups.
        count: workloads in all of them.
        priority: of all of them.
        entry: what stands for it in the pass.
    """

    __slots__ = ("_order", "count", "entry", "lanes", "priority")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.entry = 0
        self.lanes: dict[Lane, OrderedDict[WorkloadId, int]] = {}
        self.count = 0
        # A heap of the heads of the lanes. Stale entries are passed over, and swept out once they are half of it.
        self._order: list[tuple[int, Lane]] = []

    def append(self, workload_id: WorkloadId, lane: Lane, sequence: int) -> None:
        own = self.lanes.get(lane)
        if own is None:
            self.lanes[lane] = OrderedDict({workload_id: sequence})
            self._enter(sequence, lane)
        else:
            own[workload_id] = sequence
        self.count += 1

    def remove(self, workload_id: WorkloadId, lane: Lane) -> None:
        own = self.lanes[lane]
        was_first = next(iter(own)) == workload_id
        del own[workload_id]
        self.count -= 1
        if not own:
            del self.lanes[lane]
        elif was_first:
            self._enter(next(iter(own.values())), lane)

    def take_lane(self, lane: Lane) -> OrderedDict[WorkloadId, int]:
        own = self.lanes.pop(lane)
        self.count -= len(own)
        return own

    def put_lane(self, lane: Lane, own: OrderedDict[WorkloadId, int]) -> None:
        """Puts a lane back; what has arrived in it since stands behind it."""
        later = self.lanes.get(lane)
        if later is not None:
            self.count -= len(later)
            own.update(later)
        self.lanes[lane] = own
        self.count += len(own)
        self._enter(next(iter(own.values())), lane)

    def first(self) -> tuple[int, WorkloadId] | None:
        """Returns the earliest arrival; None when the group is empty."""
        order = self._order
        while order:
            sequence, lane = order[0]
            own = self.lanes.get(lane)
            if own is not None:
                workload_id = next(iter(own))
                if own[workload_id] == sequence:
                    return sequence, workload_id
            heappop(order)
        return None

    def _enter(self, sequence: int, lane: Lane) -> None:
        """Takes up the new head of a lane."""
        if len(self._order) < 2 * len(self.lanes) + _FEW:
            heappush(self._order, (sequence, lane))
        else:
            self._order = [(next(iter(own.values())), each) for each, own in self.lanes.items()]
            heapify(self._order)


class PendingQueue:
    """Workloads that wait for a place.

    A lane whose account has its quota used up is *blocked*: it stands aside, costs no round anything, and comes back at
    its old place once ``unblock`` is told that something of the account's changed.

    Attributes:
        rounds: how far the scheduling rounds have come.
    """

    def __init__(self) -> None:
        self.rounds = Pass()
        self._sequence = 0
        self._groups: dict[_Key, _Group] = {}
        self._place_of: dict[WorkloadId, _Place] = {}
        self._blocked: dict[AccountId, dict[_Place, OrderedDict[WorkloadId, int]]] = {}
        self._blocked_count = 0
        self._deferred: dict[WorkloadId, tuple[datetime, _Place]] = {}
        self._due = Deadlines[WorkloadId](self._defers)
        self._count_of: dict[AccountId, int] = {}

    def __len__(self) -> int:
        return len(self._place_of) + len(self._deferred)

    def __contains__(self, workload_id: WorkloadId) -> bool:
        return workload_id in self._place_of or workload_id in self._deferred

    @property
    def ready(self) -> int:
        """How many could be placed now; the others wait for their back-off or their account's quota."""
        return len(self._place_of) - self._blocked_count

    def of_account(self, account: AccountId) -> int:
        """Returns how many of an account's wait, for whatever reason."""
        return self._count_of.get(account, 0)

    def is_blocked(self, workload_id: WorkloadId) -> bool:
        """Whether it waits for its account's quota."""
        place = self._place_of.get(workload_id)
        return place is not None and workload_id in self._blocked.get(place[1].account, _NO_LANES).get(place, ())

    def add(
        self,
        workload_id: WorkloadId,
        priority: Priority,
        request: Hashable,
        not_before: datetime | None,
        lane: Lane = _NOBODYS,
        *,
        may_preempt: bool = True,
    ) -> None:
        """Appends; with ``not_before`` it stands aside until ``release_due``.

        Args:
            may_preempt: other work may be ended for it, so it is a candidate although one like it that may not has been
                refused.
        """
        place = ((priority, request, may_preempt), lane)
        self._count_of[lane.account] = self._count_of.get(lane.account, 0) + 1
        if not_before is None:
            self._append(workload_id, place)
        else:
            self._deferred[workload_id] = (not_before, place)
            self._due.add(not_before, workload_id)

    def remove(self, workload_id: WorkloadId) -> None:
        """Takes it out, wherever it stands."""
        deferred = self._deferred.pop(workload_id, None)
        place = deferred[1] if deferred is not None else self._place_of.pop(workload_id)
        key, lane = place
        account = lane.account
        self._count_of[account] -= 1
        if not self._count_of[account]:
            del self._count_of[account]
        if deferred is not None:
            return
        # Hashing what is asked costs as much as all the rest here, so it is not done for nothing.
        blocked = self._blocked[account].get(place) if account in self._blocked else None
        if blocked is not None and workload_id in blocked:
            del blocked[workload_id]
            self._blocked_count -= 1
            if not blocked:
                del self._blocked[account][place]
            return
        group = self._groups[key]
        group.remove(workload_id, lane)
        if not group.count:
            del self._groups[key]

    def block(self, workload_id: WorkloadId) -> None:
        """Has the lane of a candidate stand aside: its account holds all that it may."""
        place = key, lane = self._place_of[workload_id]
        group = self._groups[key]
        own = group.take_lane(lane)
        if not group.count:
            del self._groups[key]
        earlier = self._blocked.setdefault(lane.account, {}).setdefault(place, OrderedDict())
        earlier.update(own)  # what arrived while the others stood aside
        self._blocked_count += len(own)

    def unblock(self, account: AccountId) -> bool:
        """Has an account's lanes be candidates again; returns whether there were any."""
        lanes = self._blocked.pop(account, None)
        if not lanes:
            return False
        for (key, lane), own in lanes.items():
            self._blocked_count -= len(own)
            group = self._group(key)
            group.put_lane(lane, own)
            self.rounds.offer(group)
        return True

    def next_due(self) -> datetime | None:
        """Returns when the next back-off ends."""
        return self._due.next_due()

    def release_due(self, now: datetime) -> int:
        """Moves work whose back-off has ended into the queue; returns how many."""
        released = 0
        for workload_id in self._due.over(now):
            self._append(workload_id, self._deferred.pop(workload_id)[1])
            released += 1
        return released

    def ahead_of(self, workload_id: WorkloadId, few: int, sees: AccountId | None = None) -> Ahead:
        """Returns what is a candidate before it, with what of its account stands aside before it.

        For work in back-off that is everything: it joins at the end. Costs as much as there are lanes, and a walk along
        its own.

        Args:
            few: how many of the first to name.
            sees: whose may be named; None names all.
        """
        place = self._place_of.get(workload_id)
        lanes = self._lanes()
        if place is None:
            (priority, request, _), sequence = self._deferred[workload_id][1][0], self._sequence + 1
            before = [(lane, key, account) for key, account, lane in lanes]
            counts = [len(lane) for lane, _, _ in before]
        else:
            (priority, request, _), where = place
            blocked = self._blocked.get(where.account, _NO_LANES)
            own = blocked.get(place)
            if own is None or workload_id not in own:
                own = self._groups[place[0]].lanes[where]
            sequence = own[workload_id]
            lanes = chain(lanes, ((key, where.account, lane) for (key, _), lane in blocked.items()))
            before = [(lane, key, owner) for key, owner, lane in lanes if key[0] <= priority]
            counts = [len(lane) if key[0] < priority else _until(lane, sequence) for lane, key, _ in before]
        named = (
            _first_of_lane(key[0], lane, count)
            for (lane, key, owner), count in zip(before, counts, strict=True)
            if sees in (None, owner)
        )
        return Ahead(
            total=sum(counts),
            alike=sum(count for (_, key, _), count in zip(before, counts, strict=True) if key[1] == request),
            first=tuple(candidate for _, _, candidate in islice(merge(*named), few)),
        )

    def _lanes(self) -> Iterator[tuple[_Key, AccountId, OrderedDict[WorkloadId, int]]]:
        for key, group in self._groups.items():
            for lane, own in group.lanes.items():
                yield key, lane.account, own

    def _append(self, workload_id: WorkloadId, place: _Place) -> None:
        self._sequence += 1
        key, lane = place
        group = self._group(key)
        group.append(workload_id, lane, self._sequence)
        if not group.entry:
            self.rounds.offer(group)
        self._place_of[workload_id] = place

    def _group(self, key: _Key) -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key[0])
        return group

    def _defers(self, not_before: datetime, workload_id: WorkloadId) -> bool:
        deferred = self._deferred.get(workload_id)
        return deferred is not None and deferred[0] == not_before


def _until(lane: OrderedDict[WorkloadId, int], sequence: int) -> int:
    """Returns how many of a lane arrived before a moment."""
    if next(reversed(lane.values())) < sequence:
        return len(lane)
    # Read as the plain dictionary that it is too, whose order is the same: a tenth of the time of walking its links.
    return bisect_left(list(dict.values(lane)), sequence)


def _first_of_lane(
    priority: Priority, lane: OrderedDict[WorkloadId, int], count: int
) -> Iterator[tuple[Priority, int, WorkloadId]]:
    return ((priority, sequence, workload_id) for workload_id, sequence in islice(lane.items(), count))
