"""The scheduler's clock, which people and time servers set: it jumps forward and back, and stands still."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from arcray.testing.builders import T0

__all__ = ["UnsteadyClock"]


class UnsteadyClock:
    """Implements ``core.ports.Clock`` on the running loop. Only ``now`` is unsteady; durations never are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset_s = 0.0
        self._stopped_at: float | None = None

    def now(self) -> datetime:
        """Returns what the clock shows."""
        elapsed = self._loop.time() if self._stopped_at is None else self._stopped_at
        return T0 + timedelta(seconds=elapsed + self._offset_s)

    def monotonic(self) -> float:
        """Returns virtual seconds since the start."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Waits virtual seconds."""
        await asyncio.sleep(seconds)

    def jump(self, seconds: float) -> None:
        """Sets the clock forward, or back where negative."""
        self._offset_s += seconds

    def stop(self) -> None:
        """Lets it stand still."""
        if self._stopped_at is None:
            self._stopped_at = self._loop.time()

    def go_on(self) -> None:
        """Lets it go again, from what it shows; it stays behind by the time that it stood."""
        if self._stopped_at is not None:
            self._offset_s -= self._loop.time() - self._stopped_at
            self._stopped_at = None
