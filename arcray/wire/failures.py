"""How many wrong keys one address may show: so that guessing costs the guesser and not the scheduler."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["FailureLimit"]

_ADDRESSES: Final = 10_000  # remembered; of more, those that failed longest ago are forgotten
_MINUTE_S: Final = 60.0


class FailureLimit:
    """A bucket for each address: every failure fills it, and time empties it.

    Args:
        per_minute: failures of one address that are taken, at once or spread over a minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def exceeded(self, address: str, now_s: float) -> bool:
        """Whether an address has failed too often."""
        return self._level(address, now_s) >= self._per_minute

    def note(self, address: str, now_s: float) -> None:
        """Counts a failure."""
        level = self._level(address, now_s) + 1.0
        self._levels.pop(address, None)
        self._levels[address] = (level, now_s)
        while len(self._levels) > _ADDRESSES:
            self._levels.popitem(last=False)

    def _level(self, address: str, now_s: float) -> float:
        level, then_s = self._levels.get(address, (0.0, now_s))
        return max(0.0, level - (now_s - then_s) * self._per_minute / _MINUTE_S)
