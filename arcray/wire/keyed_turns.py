"""One at a time for each key, in order of asking; keys that nobody asks for take no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["KeyedTurns"]


class KeyedTurns:
    """Turns by key."""

    def __init__(self) -> None:
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Waits until nobody else has the turn of this key, and has it for the time of the block."""
        lock, wanted = self._turns.get(key, (asyncio.Lock(), 0))
        self._turns[key] = lock, wanted + 1
        try:
            async with lock:
                yield
        finally:
            lock, wanted = self._turns.pop(key)
            if wanted > 1:
                self._turns[key] = lock, wanted - 1
