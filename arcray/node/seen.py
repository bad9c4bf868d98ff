"""The attempts that a machine has seen, so that an order which comes twice is done once.

Two generations bound the memory: the older one is dropped when the newer is full. An attempt is told by its workload,
when that was made and its number, because an id may come again after the work that had it was deleted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from arcray.core.ids import WorkloadId
from arcray.core.orders import Order

__all__ = ["SeenAttempts", "of_one_work"]

_REMEMBERED: Final = 50_000  # ids in one generation


class _Newest(NamedTuple):
    """The newest attempt of an id."""

    created_s: float
    attempt: int


class SeenAttempts:
    """The newest attempt of each id of late.

    Args:
        remembered: ids, at least; twice as many at most.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._young: dict[WorkloadId, _Newest] = {}
        self._old: dict[WorkloadId, _Newest] = {}

    def note(self, order: Order) -> bool:
        """Remembers the attempt of an order; returns whether it is new."""
        seen = self._young.get(order.workload_id) or self._old.get(order.workload_id)
        if seen is not None and of_one_work(seen, order) and seen.attempt >= order.attempt:
            return False
        if len(self._young) >= self._remembered:
            self._young, self._old = {}, self._young
        self._young[order.workload_id] = _Newest(order.created_s, order.attempt)
        return True


def of_one_work(one: Order | _Newest, other: Order) -> bool:
    """Returns whether two attempts of one id are of the same work, for all that is known."""
    return one.created_s == other.created_s or not (one.created_s and other.created_s)
