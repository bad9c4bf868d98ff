"""An event loop without time, threads and I/O: what happens is decided by the code and by who schedules it.

Time jumps to the next thing that is due, so an hour costs what happens in it. Work handed to a thread runs on the loop
itself, at a time that ``pace`` chooses: a thread pool of one worker is a queue, as it is in truth, and what it does
becomes visible at one moment and is answered at a later one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

__all__ = ["VirtualLoop"]


class _NoWaiting(selectors.SelectSelector):
    """Passes time instead of waiting for files."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something else, and nothing is due"
        self.now_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop.

    Attributes:
        pace: for each job of a thread, the seconds until it is done and until that is known.
    """

    def __init__(self) -> None:
        self._selector_of_time = _NoWaiting()
        super().__init__(self._selector_of_time)
        self.pace: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
        self._threads: dict[Executor, _Thread] = {}

    def time(self) -> float:
        """Returns virtual seconds since the loop was made."""
        return self._selector_of_time.now_s

    def run_in_executor(  # type: ignore[override]  # the same to its callers, who await it
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Runs the function on this loop, when the thread would have come to it."""
        answer: asyncio.Future[Any] = self.create_future()
        if executor is None:
            self.call_soon(_run, func, args, answer, self.call_soon)
        else:
            if executor not in self._threads:
                self._threads[executor] = _Thread(self)
            self._threads[executor].put(_Job(func, args, answer))
        return answer


class _Job(NamedTuple):
    func: Callable[..., Any]
    args: tuple[Any, ...]
    answer: asyncio.Future[Any]


class _Thread:
    """A pool of one worker: one job after the other."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._jobs: deque[_Job] = deque()
        self._busy = False

    def put(self, job: _Job) -> None:
        """Queues a job."""
        self._jobs.append(job)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        # As a pool drops what was cancelled while it queued, and nothing that was begun.
        while self._jobs and self._jobs[0].answer.cancelled():
            self._jobs.popleft()
        self._busy = bool(self._jobs)
        if self._busy:
            before, after = self._loop.pace()
            self._loop.call_later(before, self._do, self._jobs.popleft(), after)

    def _do(self, job: _Job, after: float) -> None:
        _run(job.func, job.args, job.answer, lambda *call: self._loop.call_later(after, *call))
        self._next()


def _run(
    func: Callable[..., Any], args: tuple[Any, ...], answer: asyncio.Future[Any], later: Callable[..., Any]
) -> None:
    try:
        value = func(*args)
    except Exception as error:  # noqa: BLE001 - handed to whoever waits, as a thread pool does
        later(_settle, answer, None, error)
    else:
        later(_settle, answer, value, None)


def _settle(answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)
