"""The queue of inference requests that wait for a slot of their model, by priority, then by arrival."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.workload import Priority

__all__ = ["SlotQueue"]


class SlotQueue:
    """Inference requests that wait for a slot of their model, with the time at which they give up."""

    def __init__(self) -> None:
        self._queues: dict[ModelId, dict[Priority, OrderedDict[WorkloadId, None]]] = {}
        self._place_of: dict[WorkloadId, tuple[ModelId, Priority, datetime]] = {}
        # Patience is one constant, so deadlines come in order and a deque is a heap. ``Deadlines`` would add a quarter
        # to what a request costs here, and more where many wait.
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

    def defer(self, workload_id: WorkloadId, deadline: datetime) -> None:
        """Gives one more time; it keeps its place. No deadline that was ever given is later."""
        model_id, priority, _ = self._place_of[workload_id]
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

    def ahead_of(self, workload_id: WorkloadId) -> Iterator[WorkloadId]:
        """Yields the requests for the same model that get a slot before it, the first of them first."""
        place = self._place_of.get(workload_id)
        if place is None:
            return
        model_id, priority, _ = place
        for other, queue in sorted(self._queues[model_id].items()):
            if other < priority:
                yield from queue
            elif other == priority:
                yield from takewhile(lambda candidate: candidate != workload_id, queue)

    def next_due(self) -> datetime | None:
        """Returns when the next request gives up."""
        while self._deadlines and self._stale(*self._deadlines[0]):
            self._deadlines.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def expired(self, now: datetime) -> list[WorkloadId]:
        """Returns the requests whose patience has ended; the caller removes or defers them."""
        # Once each: a request that came back within one instant stands twice under the same deadline.
        given_up: dict[WorkloadId, None] = {}
        while (due := self.next_due()) is not None and due <= now:
            given_up[self._deadlines.popleft()[1]] = None
        return list(given_up)

    def _stale(self, deadline: datetime, workload_id: WorkloadId) -> bool:
        place = self._place_of.get(workload_id)
        return place is None or place[2] != deadline
