from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from arcray.testing.simulation.loop import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def run(loop: VirtualLoop, what: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(what)


def test_an_hour_passes_at_once(loop: VirtualLoop) -> None:
    run(loop, asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)


def test_sleepers_wake_in_order_of_their_time(loop: VirtualLoop) -> None:
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(*map(sleeper, (3.0, 1.0, 2.0)))

    run(loop, all_of_them())
    assert woken == [1.0, 2.0, 3.0]


def test_what_waits_for_nothing_is_said_instead_of_waiting_for_ever(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="nothing is due"):
        run(loop, wait())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()


def test_a_thread_does_one_job_after_the_other_and_is_heard_of_later(loop: VirtualLoop) -> None:
    loop.pace = lambda: (1.0, 0.5)
    thread, done = ThreadPoolExecutor(1), []

    async def work(name: str) -> tuple[str, float]:
        await loop.run_in_executor(thread, lambda: done.append((name, loop.time())))
        return name, loop.time()

    async def both() -> list[tuple[str, float]]:
        return list(await asyncio.gather(work("a"), work("b")))

    answered = run(loop, both())
    assert done == [("a", 1.0), ("b", 2.0)]
    assert answered == [("a", 1.5), ("b", 2.5)]


def test_a_job_that_was_given_up_is_dropped_from_the_queue_and_done_when_it_was_begun(loop: VirtualLoop) -> None:
    loop.pace = lambda: (1.0, 0.0)
    thread = ThreadPoolExecutor(1)
    done: list[str] = []

    async def give_up() -> None:
        begun = loop.run_in_executor(thread, done.append, "begun")
        queued = loop.run_in_executor(thread, done.append, "queued")
        await asyncio.sleep(0.5)
        begun.cancel()
        queued.cancel()
        await asyncio.sleep(5)

    run(loop, give_up())
    assert done == ["begun"]


def test_what_a_job_raises_reaches_who_waits(loop: VirtualLoop) -> None:
    async def fail() -> None:
        await loop.run_in_executor(None, int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run(loop, fail())
