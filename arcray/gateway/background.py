"""What runs beside the listeners for as long as the replica serves: the plane, the event hub, the facades' own loops.

All of it stands or falls together: when one part ends, the rest is cancelled and ``check`` says why, which makes the
replica unhealthy, and Serve replaces it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from arcray.core.errors import UnavailableError

__all__ = ["Background"]

_log = logging.getLogger(__name__)


class Background:
    """The parts, each a function that runs until it is cancelled."""

    def __init__(self, parts: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._parts = parts
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts all of them."""
        self._main = asyncio.create_task(self._run(), name="gateway background")

    def check(self) -> None:
        """Raises ``UnavailableError`` when a part has ended."""
        if self._main is None or self._main.done():
            raise UnavailableError("the gateway's background has ended; its log has the reason")

    async def stop(self) -> None:
        """Cancels all of them and waits for their clean-up."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    group.create_task(_alone(part), name=getattr(part, "__qualname__", None))
        except Exception:
            _log.exception("gateway background failed")
            raise


async def _alone(part: Callable[[], Awaitable[None]]) -> None:
    await part()
    raise RuntimeError(f"{getattr(part, '__qualname__', part)} ended, which it must not")
