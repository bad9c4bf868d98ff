"""A thread of the journal, and how the event loop waits for it.

Handing a short piece of work to a thread costs more than the work: both want the interpreter, and each of the thread's
returns from SQLite waits until the loop gives it up. Measured with 64 inference requests in flight, a commit of 1.2 ms
took 2.9 ms that way, and half of a request's time went by in waiting for commits. So while the last pieces of work were
brief, the loop stands still for the next one, up to a limit that nothing else here would notice, and leaves it the
interpreter. Work that takes longer (a slow disk, a lock, another's work before it) is awaited as ever, and the next
piece too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

__all__ = ["Worker"]

_T = TypeVar("_T")


class Worker:
    """One thread.

    Args:
        name: of the thread, for people.
        brief_s: how long the loop stands still at the most, 0 for never.
    """

    def __init__(self, name: str, *, brief_s: float = 0.0) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._brief_s = brief_s
        self._took_s = 0.0
        self._given = 0

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Runs work, and lets the loop go on meanwhile. Raises what it raises."""
        return await self._answered(asyncio.get_running_loop().run_in_executor(self._pool, work, *args))

    async def run_brief(self, work: Callable[..., _T], *args: Any, limit_s: float) -> _T:
        """Runs work that is mostly brief. Raises what it raises.

        Raises:
            TimeoutError: it has not come to its end in ``limit_s``; it may yet.
        """
        if self._given or self._took_s >= self._brief_s:
            answer = asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work, args)
        else:
            running = self._pool.submit(self._timed, work, args)
            if _has_ended(running, self._brief_s):
                return running.result()
            answer = asyncio.wrap_future(running)
        async with asyncio.timeout(limit_s):
            return await self._answered(answer)

    def close(self) -> None:
        """Ends the thread once it has done what it was given."""
        self._pool.shutdown()

    async def _answered(self, answer: asyncio.Future[_T]) -> _T:
        self._given += 1
        try:
            return await answer
        finally:
            self._given -= 1

    def _timed(self, work: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        began_s = perf_counter()
        try:
            return work(*args)
        finally:
            self._took_s = perf_counter() - began_s


def _has_ended(running: Future[Any], limit_s: float) -> bool:
    """Stands still until work has ended; returns whether it has."""
    try:
        running.exception(limit_s)
    except TimeoutError:
        return running.done()
    return True
