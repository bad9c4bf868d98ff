from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from arcray.core.commands import StopWorkload
from arcray.core.errors import InternalError
from arcray.core.events import NodeDetached, Topic
from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.ports import EventBatch
from arcray.core.queries import GetModel, GetStats
from arcray.drivers.frames import decode, encode
from arcray.runtime import switchboard
from arcray.runtime.messages import FromClient, FromScheduler
from arcray.testing.builders import T0

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import MemoryEnd, Rig

NODES = frozenset({Topic.NODES})
COMMAND = StopWorkload(workload_id=WorkloadId("w"))


def heard(line: MemoryEnd) -> list[FromScheduler]:
    """What was said to the client of this line."""
    assert line.other is not None
    return [decode(frame) for frame in line.other.sent]


def say(line: MemoryEnd, said: FromClient) -> None:
    line.send(encode(said))


async def test_a_client_whose_line_is_lost_leaves_nothing_behind(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        await anext(stream)
        assert (rig.switchboard.clients, len(rig.plane.readers)) == (1, 1)
        rig.dialer.away = True
        rig.line.close()
        await rig.settle()
        assert (rig.switchboard.clients, len(rig.plane.readers)) == (0, 0)
        await stream.aclose()


async def test_a_second_line_of_a_client_closes_its_first(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        first = rig.line
        second = await rig.dialer.dial(rig.remote)
        assert first.closed
        await rig.settle()
        assert rig.switchboard.clients == 1
        assert not second.closed


async def test_replies_of_one_turn_are_one_frame(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        say(rig.line, FromClient(commands=tuple((ticket, COMMAND) for ticket in range(5))))
        await rig.settle()
        for reply in rig.plane.replies:
            reply.set_result("done")
        await rig.settle()
        assert [said.replies for said in heard(rig.line)] == [tuple((ticket, "done") for ticket in range(5))]


async def test_an_answer_to_a_lost_line_is_dropped(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        line = rig.line
        say(line, FromClient(commands=((1, COMMAND),)))
        await rig.settle()
        line.close()
        await rig.settle()
        rig.plane.replies[0].set_result("too late")
        await rig.settle()
        assert heard(line) == []


async def test_events_wait_a_little_for_more_of_them_and_replies_do_not(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        await anext(stream)
        before = len(heard(rig.line))
        for number in range(20):
            rig.plane.publish(Topic.NODES, NodeDetached(node_id=NodeId(str(number)), reason="", at=T0))
            await asyncio.sleep(0)
        for _ in range(20):
            await anext(stream)
        assert len(heard(rig.line)) - before <= 2
        await stream.aclose()


async def test_events_that_wait_for_a_slow_client_are_bounded_and_it_is_told(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        await anext(stream)
        assert rig.line.other is not None
        rig.line.other.set_full(True)
        events = tuple(NodeDetached(node_id=NodeId(str(number)), reason="", at=T0) for number in range(60))
        rig.plane.publish(Topic.NODES, *events)
        rig.plane.publish(Topic.NODES, *events)
        await rig.settle()
        rig.line.other.set_full(False)
        assert await anext(stream) == EventBatch(events=(), gap=True)
        await stream.aclose()


async def test_what_a_full_line_has_gathered_is_said_in_frames_of_bounded_size(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        rig.plane.answers = {GetStats(): "fine"}
        assert rig.line.other is not None
        rig.line.other.set_full(True)
        asked = [asyncio.create_task(rig.remote.query(GetStats())) for _ in range(600)]
        await rig.settle()
        before = len(heard(rig.line))
        rig.line.other.set_full(False)
        assert await asyncio.gather(*asked) == ["fine"] * 600
        assert [len(said.replies) for said in heard(rig.line)[before:]] == [256, 256, 88]


async def test_replies_that_are_large_together_are_said_one_after_the_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "FRAME_BYTES", 10_000)
    async with rig.running(), asyncio.timeout(5):
        rig.plane.answers = {GetModel(model_id=ModelId(str(number))): str(number) * 4_000 for number in range(9)}
        asked = [asyncio.create_task(rig.remote.query(query)) for query in rig.plane.answers]
        assert [len(answer) for answer in await asyncio.gather(*asked)] == [4_000] * 9
        assert all(len(said.replies) <= 2 for said in heard(rig.line))


async def test_a_query_that_fails_unexpectedly_is_an_internal_error_and_ends_nothing(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        say(rig.line, FromClient(queries=((1, GetStats()),)))  # the plane has no such answer: a KeyError
        await rig.settle()
        ((_, error),) = heard(rig.line)[-1].replies
        assert isinstance(error, InternalError)
        rig.plane.answers = {GetStats(): "fine"}
        assert await rig.remote.query(GetStats()) == "fine"


async def test_lines_are_closed_when_the_scheduler_ends(rig: Rig) -> None:
    async with rig.running():
        line = rig.line
    assert line.closed
