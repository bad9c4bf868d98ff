"""Workers that are attached through one process, with channels that reach nobody and a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from arcray.core.errors import NotFoundError, UnavailableError
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words
from arcray.facades.hivemind.worker_channel import Answer, Certainty
from arcray.facades.hivemind.worker_link import Limits
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.workers import registration_of
from arcray.testing.clock import FakeClock
from arcray.testing.plane import in_process_plane
from arcray.wire.attachments import Attachments
from arcray.wire.keyed_turns import KeyedTurns

REGISTRATION = registration_of(
    pool.RegisterWorkerNodeRequest(node_id="w", hostname="127.0.0.1", port=7, cpu_cores=1), owner=None, address="g"
)


class Nobody:
    """A channel to where nobody is."""

    async def reach(self, timeout_s: float) -> bool:
        _ = timeout_s
        return False

    async def execute(self, request: pool.ExecuteTaskRequest, timeout_s: float, words: Words) -> Answer:
        raise AssertionError((request, timeout_s, words))

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        _ = task_id, timeout_s
        return Answer(Certainty.UNREACHED)

    async def broken(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Hangs up."""


@dataclass
class Rig:
    links: WorkerLinks
    attachments: Attachments
    clock: FakeClock


@asynccontextmanager
async def linked() -> AsyncIterator[Rig]:
    clock, attachments = FakeClock(), Attachments("g")
    async with in_process_plane(nodes=[]) as cluster:
        links = WorkerLinks(
            cluster.plane, attachments, clock, limits=Limits(orders=8, dial_timeout_s=1.0), dial=lambda _: Nobody()
        )
        with pytest.raises(UnavailableError, match="starting"):
            await links.join(REGISTRATION)
        running = asyncio.create_task(links.run())
        await asyncio.sleep(0)
        yield Rig(links, attachments, clock)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(links) == len(attachments) == 0


async def test_workers_that_went_without_a_word_are_hung_up_on() -> None:
    async with linked() as rig:
        await rig.links.join(REGISTRATION)
        await rig.clock.advance(45.0)
        await rig.links.hear(REGISTRATION.id)
        await rig.clock.advance(60.0)
        assert len(rig.links) == len(rig.attachments) == 1
        await rig.clock.advance(30.0)
        assert len(rig.links) == len(rig.attachments) == 0


async def test_a_worker_that_left_has_to_register() -> None:
    async with linked() as rig:
        with pytest.raises(NotFoundError):
            await rig.links.leave(REGISTRATION.id, "never here")
        await rig.links.join(REGISTRATION)
        await rig.links.leave(REGISTRATION.id, "bye")
        await rig.links.leave(REGISTRATION.id, "bye again")
        with pytest.raises(NotFoundError):
            await rig.links.hear(REGISTRATION.id)
        await rig.links.join(REGISTRATION)
        await rig.links.hear(REGISTRATION.id)


async def test_what_waits_for_workers_is_measured() -> None:
    async with linked() as rig:
        (reading,) = rig.links.queues()
        assert (reading.length, reading.limit) == (0, 8)


async def test_turns_of_one_key_come_in_order_and_leave_nothing() -> None:
    turns, order = KeyedTurns(), []

    async def take(key: str, number: int) -> None:
        async with turns.turn(key):
            await asyncio.sleep(0)
            order.append((key, number))

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(take("a", number))
        group.create_task(take("b", 9))
    assert [number for key, number in order if key == "a"] == [0, 1, 2]
    assert order.index(("b", 9)) < order.index(("a", 2))
    assert len(turns) == 0
