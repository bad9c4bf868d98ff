"""The real clock and real ids: what production gives where tests give ``FakeClock`` and ``SequenceIds``.

The only module that may ask the machine for the time or for randomness; both are banned elsewhere by the linter.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import monotonic
from uuid import uuid4  # noqa: TID251 - this module is the Ids

__all__ = ["RandomIds", "SystemClock"]


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Returns the time in UTC, aware."""
        return datetime.now(UTC)  # noqa: TID251 - this is the Clock

    def monotonic(self) -> float:
        """Returns seconds that never go back."""
        return monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


class RandomIds:
    """Random version 4 UUIDs."""

    def new(self) -> str:
        """Returns a fresh id in canonical form."""
        return str(uuid4())
