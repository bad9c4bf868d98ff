"""Orders for one worker, and which of them is next. No I/O.

Orders about one piece of work are done one after the other, in order; others beside them. Of starts one at a time is on
its way, because each has up to 100 MiB in memory. An attempt is started once, however often its order comes, and a stop
that finds the start still waiting takes its place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final, TypeAlias

from arcray.core.ids import WorkloadId
from arcray.core.orders import Order, StartWorkload, StopAttempt
from arcray.core.workload import WorkloadView

__all__ = ["Forget", "Item", "Unstarted", "WorkerQueue"]

_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Forget:
    """An attempt that the cluster does not count on any more, and the worker may still be at."""

    workload_id: WorkloadId
    attempt: int


@dataclass(frozen=True, slots=True)
class Unstarted:
    """Work that was stopped while its start still waited here."""

    order: StopAttempt

    @property
    def workload_id(self) -> WorkloadId:
        """Whose attempt it is."""
        return self.order.workload_id


Item: TypeAlias = Order | Forget | Unstarted
_Which: TypeAlias = tuple[WorkloadId, float, int]


class WorkerQueue:
    """What waits for a worker, and what is being seen to."""

    def __init__(self) -> None:
        self._waiting: deque[Item] = deque()
        self._busy: dict[WorkloadId, Item] = {}
        self._seen: OrderedDict[_Which, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def put(self, item: Item) -> None:
        """Takes an order; one that it has, or has had, changes nothing."""
        match item:
            case StopAttempt():
                self._put_stop(item)
            case Forget():
                if item not in self._waiting and item not in self._busy.values():
                    self._waiting.append(item)
            case Unstarted():
                self._waiting.append(item)
            case _:
                which = _which(item)
                if which not in self._seen:
                    self._remember(which)
                    self._waiting.append(item)

    def holds(self, work: WorkloadView) -> bool:
        """Returns whether the start of the present attempt has come here, whatever became of it."""
        return (work.spec.id, work.spec.created_at.timestamp(), work.attempt) in self._seen

    def take(self) -> Item | None:
        """Returns the next order and has its work count as seen to, until ``done``; None where none may begin now."""
        starting = any(isinstance(each, StartWorkload) for each in self._busy.values())
        for item in self._waiting:
            if item.workload_id not in self._busy and not (starting and isinstance(item, StartWorkload)):
                self._waiting.remove(item)
                self._busy[item.workload_id] = item
                return item
        return None

    def done(self, item: Item) -> None:
        """Says that an order was seen to."""
        del self._busy[item.workload_id]

    def _put_stop(self, stop: StopAttempt) -> None:
        start = next((each for each in self._waiting if _is_start_of(each, stop)), None)
        if start is not None:
            self._waiting.remove(start)
            self._waiting.append(Unstarted(stop))
        elif not any(_is_stop_of(each, stop) for each in (*self._waiting, *self._busy.values())):
            self._waiting.append(stop)

    def _remember(self, which: _Which) -> None:
        self._seen[which] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


def _which(order: Order) -> _Which:
    return order.workload_id, order.created_s, order.attempt


def _is_start_of(item: Item, stop: StopAttempt) -> bool:
    return isinstance(item, StartWorkload) and _which(item) == _which(stop)


def _is_stop_of(item: Item, stop: StopAttempt) -> bool:
    found = item.order if isinstance(item, Unstarted) else item
    return isinstance(found, StopAttempt) and _which(found) == _which(stop)
