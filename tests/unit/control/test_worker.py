"""The loop stands still for brief work, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event

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


async def went_on(worker: Worker, work: Callable[[], object]) -> bool:
    """Runs work; returns whether the loop did anything else meanwhile."""
    turns: list[None] = []
    asyncio.get_running_loop().call_soon(turns.append, None)
    await worker.run_brief(work, limit_s=LIMIT_S)
    return bool(turns)


async def test_nothing_else_is_done_while_work_is_brief() -> None:
    async with worker(PATIENT_S) as it:
        assert [await went_on(it, lambda: None) for _ in range(3)] == [False] * 3


async def test_the_loop_goes_on_while_work_takes_longer_and_while_the_next_is_done() -> None:
    async with worker(0.01) as it:
        gate = Event()
        slow = asyncio.ensure_future(it.run_brief(gate.wait, limit_s=LIMIT_S))
        await asyncio.sleep(0)
        assert not slow.done()
        gate.set()
        assert await slow is True
        assert await went_on(it, lambda: None)


async def test_work_that_is_brief_again_is_stood_still_for_again() -> None:
    async with worker(0.2) as it:
        gate = Event()
        slow = asyncio.ensure_future(it.run_brief(gate.wait, limit_s=LIMIT_S))
        await asyncio.sleep(0)  # it stands still for all of the 0.2 s
        gate.set()
        await slow
        assert [await went_on(it, lambda: None) for _ in range(2)] == [True, False]


async def test_the_loop_does_not_stand_still_behind_other_work() -> None:
    async with worker(PATIENT_S) as it:
        gate = Event()
        other = asyncio.ensure_future(it.run(gate.wait))
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(it.run_brief(lambda: "done", limit_s=LIMIT_S))
        await asyncio.sleep(0)
        assert not behind.done()
        gate.set()
        assert (await other, await behind) == (True, "done")


async def test_a_worker_may_be_told_never_to_stand_still() -> None:
    async with worker(0.0) as it:
        assert await went_on(it, lambda: None)


@pytest.mark.parametrize("brief_s", [0.0, PATIENT_S])
async def test_what_work_raises_is_raised(brief_s: float) -> None:
    async with worker(brief_s) as it:
        with pytest.raises(ZeroDivisionError):
            await it.run_brief(lambda: 1 // 0, limit_s=LIMIT_S)


@pytest.mark.parametrize("brief_s", [0.0, 0.01])
async def test_work_that_comes_to_no_end_is_given_up(brief_s: float) -> None:
    async with worker(brief_s) as it:
        gate = Event()
        with pytest.raises(TimeoutError):
            await it.run_brief(gate.wait, limit_s=0.05)
        gate.set()
