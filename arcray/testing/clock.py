"""A clock that moves when told, and ids that count: what tests give to code that asks for time and identity."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from uuid import UUID

__all__ = ["FakeClock", "SequenceIds"]


class FakeClock:
    """Time stands still until ``advance``; sleepers wake in order of their time."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._set = timedelta()
        self._order = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Returns the fake time."""
        return self._start + timedelta(seconds=self._elapsed) + self._set

    def jump(self, seconds: float) -> None:
        """Sets the clock forward, or back where negative; no time passes."""
        self._set += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """Returns seconds since the start."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Waits until ``advance`` passes the time."""
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order += 1
        heappush(self._sleepers, (self._elapsed + max(seconds, 0.0), self._order, wake))
        await wake

    async def advance(self, seconds: float) -> None:
        """Moves time on, letting everything that wakes on the way run in order."""
        until = self._elapsed + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, wake = heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not wake.done():
                wake.set_result(None)
            await _settle()
        self._elapsed = until
        await _settle()

    async def stand_still(self, seconds: float) -> None:
        """Moves time on while nothing runs, as for a process that is stopped; what was due meanwhile wakes late."""
        self._elapsed += seconds
        await self.advance(0.0)


async def _settle() -> None:
    """Lets every ready callback run; ten turns of the loop pass through any chain of awaits in our code."""
    for _ in range(10):
        await asyncio.sleep(0)


class SequenceIds:
    """Ids 1, 2, 3 … as UUIDs."""

    def __init__(self) -> None:
        self._last = 0

    def new(self) -> str:
        """Returns the next id."""
        self._last += 1
        return str(UUID(int=self._last))
