"""The time of the rules: it goes on evenly, whatever is done to the clock of the machine.

People and time servers set clocks. Leases, deadlines, back-offs and expiries would stand still behind a clock that was
set back, and all be over at once by one that jumped ahead. So time begins as what the clock shows (or with the newest
thing on disk, where that is later) and then goes by the monotonic clock. What the clock shows is approached again by at
most ``_SLEW`` of the time that passes: no term is off by more than that.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from arcray.core.ports import Clock

__all__ = ["SteadyClock"]

_SLEW: Final = 0.05  # an hour is made good in 20; a lease of 30 s is off by 1.5 s meanwhile


class SteadyClock:
    """A ``core.ports.Clock`` by another one, whose time may be set. This one's never goes back and never jumps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_s = clock.monotonic()
        self._time = clock.now()

    def now(self) -> datetime:
        """Returns the time in UTC, aware: what the clock shows, or what approaches it evenly."""
        shown, seen_s = self._clock.now(), self._clock.monotonic()
        passed_s, self._seen_s = seen_s - self._seen_s, seen_s
        slowest = self._time + timedelta(seconds=(1 - _SLEW) * passed_s)
        fastest = self._time + timedelta(seconds=(1 + _SLEW) * passed_s)
        self._time = min(max(shown, slowest), fastest)
        return self._time

    def reach(self, time: datetime) -> None:
        """Goes on from a time, if that is later: something has been decided at it already."""
        self._time = max(time, self.now())

    def monotonic(self) -> float:
        """Returns seconds that never go back."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await self._clock.sleep(seconds)
