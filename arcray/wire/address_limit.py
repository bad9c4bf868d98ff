"""How often one address may do what costs others: show a wrong key, register a node. The cost is its own then."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["AddressLimit"]

_ADDRESSES: Final = 10_000  # remembered; of more, those that were counted longest ago are forgotten
_MINUTE_S: Final = 60.0


class AddressLimit:
    """A bucket for each address: every time fills it, and the minutes empty it.

    Args:
        per_minute: times that are within the limit, at once or spread over a minute; 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, address: str, now_s: float) -> bool:
        """Counts one more time, unless an address has had as many as it may; returns whether it was counted."""
        if self._per_minute and self._level(address, now_s) > self._per_minute - 1:
            return False
        self.note(address, now_s)
        return True

    def exceeded(self, address: str, now_s: float) -> bool:
        """Whether an address has had as many as it may."""
        return 0 < self._per_minute <= self._level(address, now_s)

    def note(self, address: str, now_s: float) -> None:
        """Counts one more time."""
        level = self._level(address, now_s) + 1.0
        self._levels.pop(address, None)
        self._levels[address] = (level, now_s)
        while len(self._levels) > _ADDRESSES:
            self._levels.popitem(last=False)

    def _level(self, address: str, now_s: float) -> float:
        level, then_s = self._levels.get(address, (0.0, now_s))
        return max(0.0, level - (now_s - then_s) * self._per_minute / _MINUTE_S)
