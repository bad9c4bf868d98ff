"""Queues of work that waits: for a place (containers, programs, model servers) or for a slot (inference).

Both are ordered by priority, then by arrival. Pending work is grouped by what it asks for: within a round a group whose
head was refused is passed over, so a round costs one decision per group and per placement, however long the queue is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from datetime import datetime
from heapq import heapify, heappop, heappush

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.workload import Priority

__all__ = ["PendingQueue", "SlotQueue"]


class PendingQueue:
    """Workloads that wait for a place."""

    def __init__(self) -> None:
        self._sequence = 0
        self._groups: dict[tuple[Priority, Hashable], OrderedDict[WorkloadId, int]] = {}
        self._group_of: dict[WorkloadId, tuple[Priority, Hashable]] = {}
        self._deferred: dict[WorkloadId, tuple[datetime, tuple[Priority, Hashable]]] = {}
        self._due: list[tuple[datetime, WorkloadId]] = []

    def __len__(self) -> int:
        return len(self._group_of) + len(self._deferred)

    def __contains__(self, workload_id: WorkloadId) -> bool:
        return workload_id in self._group_of or workload_id in self._deferred

    @property
    def ready(self) -> int:
        """How many could be placed now; the others wait for their back-off."""
        return len(self._group_of)

    def add(self, workload_id: WorkloadId, priority: Priority, request: Hashable, not_before: datetime | None) -> None:
        """Appends; with ``not_before`` it stands aside until ``release_due``."""
        key = (priority, request)
        if not_before is None:
            self._append(workload_id, key)
        else:
            self._deferred[workload_id] = (not_before, key)
            heappush(self._due, (not_before, workload_id))

    def remove(self, workload_id: WorkloadId) -> None:
        """Takes it out, wherever it stands."""
        if self._deferred.pop(workload_id, None) is not None:
            return
        key = self._group_of.pop(workload_id)
        group = self._groups[key]
        del group[workload_id]
        if not group:
            del self._groups[key]

    def next_due(self) -> datetime | None:
        """Returns when the next back-off ends."""
        while self._due and self._stale(self._due[0]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def release_due(self, now: datetime) -> int:
        """Moves work whose back-off has ended into the queue; returns how many."""
        released = 0
        while (due := self.next_due()) is not None and due <= now:
            _, workload_id = heappop(self._due)
            _, key = self._deferred.pop(workload_id)
            self._append(workload_id, key)
            released += 1
        return released

    def heads(self) -> Iterator[WorkloadId]:
        """Yields the next candidate by priority and arrival.

        The reader either removes what it was given before it asks again, which makes the group's next member a
        candidate, or leaves it, which passes over the rest of that group.
        """
        heap = [
            (key[0], next(iter(group.values())), index, key) for index, (key, group) in enumerate(self._groups.items())
        ]
        heapify(heap)
        while heap:
            priority, _, index, key = heappop(heap)
            group = self._groups[key]
            workload_id = next(iter(group))
            yield workload_id
            if workload_id not in group and group:
                heappush(heap, (priority, next(iter(group.values())), index, key))

    def _append(self, workload_id: WorkloadId, key: tuple[Priority, Hashable]) -> None:
        self._sequence += 1
        self._groups.setdefault(key, OrderedDict())[workload_id] = self._sequence
        self._group_of[workload_id] = key

    def _stale(self, entry: tuple[datetime, WorkloadId]) -> bool:
        deferred = self._deferred.get(entry[1])
        return deferred is None or deferred[0] != entry[0]


class SlotQueue:
    """Inference requests that wait for a slot of their model, with the time at which they give up."""

    def __init__(self) -> None:
        self._queues: dict[ModelId, dict[Priority, OrderedDict[WorkloadId, None]]] = {}
        self._place_of: dict[WorkloadId, tuple[ModelId, Priority, datetime]] = {}
        # Patience is one constant, so deadlines come in order and a deque is a heap.
        self._deadlines: deque[tuple[datetime, WorkloadId]] = deque()

    def __len__(self) -> int:
        return len(self._place_of)

    def __contains__(self, workload_id: WorkloadId) -> bool:
        return workload_id in self._place_of

    def waits_for(self, model_id: ModelId) -> bool:
        """Whether any request waits for the model."""
        return model_id in self._queues

    def models(self) -> tuple[ModelId, ...]:
        """Returns the models that requests wait for."""
        return tuple(self._queues)

    def add(self, workload_id: WorkloadId, model_id: ModelId, priority: Priority, deadline: datetime) -> None:
        """Appends."""
        self._queues.setdefault(model_id, {}).setdefault(priority, OrderedDict())[workload_id] = None
        self._place_of[workload_id] = (model_id, priority, deadline)
        self._deadlines.append((deadline, workload_id))

    def remove(self, workload_id: WorkloadId) -> None:
        """Takes it out."""
        model_id, priority, _ = self._place_of.pop(workload_id)
        by_priority = self._queues[model_id]
        queue = by_priority[priority]
        del queue[workload_id]
        if not queue:
            del by_priority[priority]
            if not by_priority:
                del self._queues[model_id]

    def first(self, model_id: ModelId) -> WorkloadId | None:
        """Returns the next request for the model."""
        by_priority = self._queues.get(model_id)
        if not by_priority:
            return None
        return next(iter(by_priority[min(by_priority)]))

    def next_due(self) -> datetime | None:
        """Returns when the next request gives up."""
        while self._deadlines and self._stale(*self._deadlines[0]):
            self._deadlines.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: datetime) -> list[WorkloadId]:
        """Returns the requests whose patience has ended; the caller removes them."""
        # A request that was dispatched and came back in the instant it was made stands here twice.
        given_up: dict[WorkloadId, None] = {}
        while (due := self.next_due()) is not None and due <= now:
            given_up[self._deadlines.popleft()[1]] = None
        return list(given_up)

    def _stale(self, deadline: datetime, workload_id: WorkloadId) -> bool:
        place = self._place_of.get(workload_id)
        return place is None or place[2] != deadline
