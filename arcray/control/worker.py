"""A thread of the journal, and when the event loop does its work in the thread's place.

Handing a short piece of work to a thread costs more than the work: the thread must be woken, and both then want the
interpreter, which each of its returns from SQLite waits for. With 64 inference requests in flight, a commit took 2.9 ms
that way, where SQLite alone needs 0.2. So the loop does a piece of work itself. After one that took long (a slow disk)
the next is the thread's, after two in a row the next two, and so on in powers of two: how long they take in the thread
says nothing, for the reason above. What would have to wait for someone is the thread's too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from time import perf_counter
from typing import Any, Final, TypeVar

__all__ = ["Worker"]

_T = TypeVar("_T")

_MOST_LEFT: Final = 1024


class Worker:
    """One thread. Nothing is done by two at a time, the loop included.

    Args:
        name: of the thread, for people.
        brief_s: what took longer than that was not brief; 0 for nothing is.
    """

    def __init__(self, name: str, *, brief_s: float = 0.0) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._brief_s = brief_s
        self._left = 0  # how many are left to the thread
        self._next_left = 1  # how many will be, after one that was not brief
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
        if not self._given and self._brief_s and self._alone.acquire(blocking=False):
            try:
                if self._done_at_once(at_once, args):
                    return
            finally:
                self._alone.release()
        async with asyncio.timeout(limit_s):
            await self.run(work, *args)

    def close(self) -> None:
        """Ends the thread once it has done what it was given."""
        self._pool.shutdown()

    def _exclusively(self, work: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        with self._alone:
            return work(*args)

    def _done_at_once(self, at_once: Callable[..., bool], args: tuple[Any, ...]) -> bool:
        if self._left:
            self._left -= 1
            return False
        began_s = perf_counter()
        try:
            return at_once(*args)
        finally:  # a disk that fails may take long to do so
            if perf_counter() - began_s < self._brief_s:
                self._next_left = 1
            else:
                self._left = self._next_left
                self._next_left = min(2 * self._left, _MOST_LEFT)
