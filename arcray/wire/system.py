"""The real clock and real ids: what production gives where tests give ``FakeClock`` and ``SequenceIds``.

The only module that may ask the machine for the time or for randomness; both are banned elsewhere by the linter. Fresh
ids of ``claw_proto`` are the exception: its document has a constructor for them, which arcray itself does not call.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from os import urandom
from time import monotonic, time_ns
from typing import Final

__all__ = ["RandomIds", "SystemClock"]

_VERSION_AND_VARIANT: Final = 0x7 << 76 | 0x2 << 62
_RANDOM: Final = 0xFFF << 64 | (1 << 62) - 1  # the bits of an id that are random


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
    """Version 7 UUIDs (RFC 9562): 48 bits of milliseconds, then 74 random ones.

    They sort by time, so that what is written together lies together in the indexes of the database. Random ones have
    a commit touch a page of the index for every row, once there are many.
    """

    def new(self) -> str:
        """Returns a fresh id in canonical form."""
        random = int.from_bytes(urandom(10), "big")
        number = (time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | _VERSION_AND_VARIANT | random & _RANDOM
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
