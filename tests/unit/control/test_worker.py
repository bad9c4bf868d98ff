"""The loop does brief work itself, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event, current_thread

import pytest

from arcray.control.worker import Worker

LIMIT_S = 10.0
PATIENT_S = 10.0  # so that brief work is brief on any machine


@asynccontextmanager
async def worker(brief_s: float) -> AsyncIterator[Worker]:
    it = Worker("test", brief_s=brief_s)
    try:
        async with asyncio.timeout(20):
            yield it
    finally:
        it.close()


class Work:
    """Says who did it.

    Args:
        held: whether it cannot be done at once.
        during: runs while it is done.
    """

    def __init__(self, *, held: bool = False, during: Callable[[], object] = int) -> None:
        self.done_by: list[str] = []
        self._held = held
        self._during = during

    async def by(self, worker: Worker) -> str:
        await worker.run_brief(self._at_once, self._patiently, LIMIT_S, limit_s=LIMIT_S)
        return self.done_by[-1]

    def _at_once(self, limit_s: float) -> bool:
        if not self._held:
            self._patiently(limit_s)
        return not self._held

    def _patiently(self, limit_s: float) -> None:
        assert limit_s == LIMIT_S
        self._during()
        self.done_by.append("loop" if current_thread().name == "MainThread" else "thread")


async def test_brief_work_is_done_by_the_loop() -> None:
    async with worker(PATIENT_S) as it:
        assert [await Work().by(it) for _ in range(3)] == ["loop"] * 3


async def test_after_work_that_took_longer_the_next_is_the_threads_and_then_the_loops_again() -> None:
    async with worker(0.05) as it:
        slow = Work(during=lambda: Event().wait(0.06))
        assert [await work.by(it) for work in (slow, Work(), Work())] == ["loop", "thread", "loop"]


async def test_the_more_in_a_row_take_longer_the_fewer_are_the_loops() -> None:
    async with worker(0.005) as it:
        by = [await Work(during=lambda: Event().wait(0.006)).by(it) for _ in range(12)]
        assert by == ["loop", "thread", "loop", *["thread"] * 2, "loop", *["thread"] * 4, "loop", "thread"]


async def test_work_that_took_longer_and_failed_counts_as_long() -> None:
    def fail() -> None:
        Event().wait(0.06)
        raise OSError("no space left on device")

    async with worker(0.05) as it:
        with pytest.raises(OSError, match="no space"):
            await Work(during=fail).by(it)
        assert await Work().by(it) == "thread"


async def test_what_must_wait_for_someone_is_done_by_the_thread() -> None:
    async with worker(PATIENT_S) as it:
        assert await Work(held=True).by(it) == "thread"


async def test_the_loop_does_nothing_while_the_thread_has_work() -> None:
    async with worker(PATIENT_S) as it:
        gate = Event()
        other = asyncio.ensure_future(it.run(gate.wait))
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(Work().by(it))
        await asyncio.sleep(0)
        assert not behind.done()
        gate.set()
        assert (await other, await behind) == (True, "thread")


async def test_the_loop_does_nothing_while_the_thread_is_at_work_that_was_given_up() -> None:
    async with worker(PATIENT_S) as it:
        begun, gate = Event(), Event()

        def work() -> None:
            begun.set()
            gate.wait()

        given_up = asyncio.ensure_future(it.run(work))
        await asyncio.to_thread(begun.wait)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        behind = asyncio.ensure_future(Work().by(it))
        await asyncio.sleep(0)
        assert not behind.done()
        gate.set()
        assert await behind == "thread"


async def test_a_worker_may_be_told_that_nothing_is_brief() -> None:
    async with worker(0.0) as it:
        assert await Work().by(it) == "thread"


@pytest.mark.parametrize("brief_s", [0.0, PATIENT_S])
async def test_what_work_raises_is_raised(brief_s: float) -> None:
    async with worker(brief_s) as it:
        with pytest.raises(ZeroDivisionError):
            await Work(during=lambda: 1 // 0).by(it)


async def test_work_that_comes_to_no_end_is_given_up() -> None:
    async with worker(0.0) as it:
        gate = Event()
        with pytest.raises(TimeoutError):
            await it.run_brief(gate.is_set, gate.wait, limit_s=0.05)
        gate.set()
