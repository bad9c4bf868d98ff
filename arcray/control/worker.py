"""A thread of the journal, and when the event loop does its work in the thread's place.

Handing a short piece of work to a thread costs more than the work: the thread must be woken, and both then want the
interpreter, which each of its returns from SQLite waits for. With 64 inference requests in flight, a commit took 2.9 ms
that way, where SQLite alone needs 0.2. So while the last pieces of work were brief, the loop does the next one itself.
Work that took longer (a slow disk) is the thread's again, and so is what would have to wait for someone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar

__all__ = ["Worker"]

_T = TypeVar("_T")


class Worker:
    """One thread. Nothing is done by two at a time, the loop included.

    Args:
        name: of the thread, for people.
        brief_s: what took longer than that was not brief; 0 for nothing is.
    """

    def __init__(self, name: str, *, brief_s: float = 0.0) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._brief_s = brief_s
        self._took_s = 0.0
        self._given = 0
        self._alone = Lock()  # the thread may still be at what nobody waits for any more

    async def run(self, work: Callable[..., _T], *args: Any) -> _T:
        """Runs work in the thread, and lets the loop go on meanwhile. Raises what it raises."""
        self._given += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._exclusively, work, args)
        finally:
            self._given -= 1

    async def run_brief(
        self, at_once: Callable[..., bool], work: Callable[..., object], *args: Any, limit_s: float
    ) -> None:
        """Does what is mostly brief, in place or as ``run`` does. Raises what it raises.

        Args:
            at_once: does it unless someone must be waited for; returns whether it has.
            work: does it.

        Raises:
            TimeoutError: the thread has not come to its end in ``limit_s``; it may yet.
        """
        idle = not self._given and self._took_s < self._brief_s
        if idle and self._alone.acquire(blocking=False):
            try:
                if self._timed(at_once, *args):
                    return
            finally:
                self._alone.release()
        async with asyncio.timeout(limit_s):
            await self.run(self._timed, work, *args)

    def close(self) -> None:
        """Ends the thread once it has done what it was given."""
        self._pool.shutdown()

    def _exclusively(self, work: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        with self._alone:
            return work(*args)

    def _timed(self, work: Callable[..., _T], *args: Any) -> _T:
        began_s = perf_counter()
        try:
            return work(*args)
        finally:
            self._took_s = perf_counter() - began_s
