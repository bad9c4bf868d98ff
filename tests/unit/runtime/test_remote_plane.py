from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arcray.control.blobs import FsspecBlobs
from arcray.core.commands import Command, RemoveModel, RevokeKey, StopWorkload
from arcray.core.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.events import NodeDetached, Topic
from arcray.core.ids import KeyId, ModelId, NodeId, WorkloadId
from arcray.core.orders import StopAttempt
from arcray.core.ports import EventBatch
from arcray.core.queries import GetModel, GetStats
from arcray.drivers.frames import encode
from arcray.runtime import remote_plane
from arcray.runtime.messages import CHUNK
from arcray.testing.builders import T0

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Rig

NODES = frozenset({Topic.NODES})
N1 = NodeId("1")
ORDER = StopAttempt(workload_id=WorkloadId("w"), attempt=1, grace_s=1.0)


def a_command(number: int) -> StopWorkload:
    return StopWorkload(workload_id=WorkloadId(str(number)))


def number_of(command: Command) -> int:
    assert isinstance(command, StopWorkload)
    return int(command.workload_id)


def an_event(number: int) -> NodeDetached:
    return NodeDetached(node_id=NodeId(str(number)), reason="", at=T0)


def begun(rig: Rig) -> list[int]:
    return [number_of(command) for command in rig.plane.begun]


def frames_with_commands(rig: Rig) -> list[int]:
    """How many commands each frame had that had any."""
    return [len(said.commands) for said in rig.said if said.commands]


async def ask(rig: Rig, *numbers: int) -> list[Any]:
    return await rig.remote.submit([a_command(number) for number in numbers])


async def test_replies_come_in_the_order_of_the_commands(rig: Rig) -> None:
    rig.plane.auto = number_of
    async with rig.running(), asyncio.timeout(5):
        assert await ask(rig, 3, 1, 2) == [3, 1, 2]


async def test_a_refusal_is_an_entry_and_not_an_exception(rig: Rig) -> None:
    rig.plane.auto = lambda command: NotFoundError("no 1") if number_of(command) == 1 else "done"
    async with rig.running(), asyncio.timeout(5):
        refused, done = await ask(rig, 1, 2)
    assert isinstance(refused, NotFoundError)
    assert done == "done"


async def test_an_idle_client_says_nothing(rig: Rig) -> None:
    async with rig.running():
        assert rig.said == []


async def test_what_is_asked_in_one_turn_of_the_loop_is_one_frame(rig: Rig) -> None:
    rig.plane.auto = number_of
    async with rig.running(), asyncio.timeout(5):
        await asyncio.gather(*(ask(rig, number) for number in range(CHUNK - 1)))
        assert frames_with_commands(rig) == [CHUNK - 1]


async def test_a_crowd_is_sent_in_chunks_so_that_the_scheduler_begins_early(rig: Rig) -> None:
    rig.plane.auto = number_of
    async with rig.running(), asyncio.timeout(5):
        answers = await asyncio.gather(*(ask(rig, number) for number in range(2 * CHUNK + 1)))
        assert frames_with_commands(rig) == [CHUNK, CHUNK, 1]
        assert answers == [[number] for number in range(2 * CHUNK + 1)]


async def test_a_full_line_gathers_what_is_asked_into_one_frame(rig: Rig) -> None:
    rig.plane.auto = number_of
    async with rig.running(), asyncio.timeout(5):
        rig.line.set_full(True)
        asks = []
        for number in range(3 * CHUNK):
            asks.append(asyncio.create_task(ask(rig, number)))
            await asyncio.sleep(0)
        assert frames_with_commands(rig) == []
        rig.line.set_full(False)
        await asyncio.gather(*asks)
        assert frames_with_commands(rig) == [3 * CHUNK]
        assert begun(rig) == list(range(3 * CHUNK))


async def test_a_query_is_answered_or_raises(rig: Rig) -> None:
    known, unknown = GetStats(), GetModel(model_id=ModelId("none"))
    rig.plane.answers = {known: "stats", unknown: NotFoundError("no model none")}
    async with rig.running(), asyncio.timeout(5):
        assert await rig.remote.query(known) == "stats"
        with pytest.raises(NotFoundError, match="none"):
            await rig.remote.query(unknown)


async def test_a_small_blob_goes_over_the_line(rig: Rig, tmp_path: Path) -> None:
    rig.plane.store = FsspecBlobs(tmp_path, max_blob_bytes=4)
    async with rig.running(), asyncio.timeout(5):
        await rig.remote.blob("put", "programs/p.py", b"pass")
        assert await rig.remote.blob("size", "programs/p.py") == 4
        assert await rig.remote.blob("get", "programs/p.py", 1, 3) == b"as"
        with pytest.raises(ResourceExhaustedError):
            await rig.remote.blob("put", "programs/p.py", b"pass\n")
        await rig.remote.blob("delete", "programs/p.py")
        with pytest.raises(NotFoundError):
            await rig.remote.blob("get", "programs/p.py", 0, 1)


@pytest.mark.parametrize("operation", ["append", "delete_below", "__init__"])
async def test_no_other_call_of_the_blob_store_goes_over_the_line(rig: Rig, tmp_path: Path, operation: str) -> None:
    rig.plane.store = FsspecBlobs(tmp_path, max_blob_bytes=4)
    async with rig.running(), asyncio.timeout(5):
        with pytest.raises(InvalidArgumentError, match="operation"):
            await rig.remote.blob(operation, "logs", b"")


async def test_a_restarted_scheduler_is_asked_again_all_that_is_unanswered_in_order(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        asks = [asyncio.create_task(ask(rig, number)) for number in (1, 2, 3)]
        await rig.settle()
        rig.plane.replies[1].set_result("two")
        await rig.settle()
        assert asks[1].done()
        await rig.restart_scheduler()
        await rig.clock.advance(0.1)
        assert begun(rig) == [1, 3]
        for reply in rig.plane.replies:
            reply.set_result("again")
        assert await asyncio.gather(*asks) == [["again"], ["two"], ["again"]]


async def test_a_process_hears_of_every_line_that_stands(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        assert rig.connections == 1
        rig.dialer.away = True
        rig.line.close()
        await rig.clock.advance(2)
        assert rig.connections == 1
        rig.dialer.away = False
        await rig.clock.advance(2)
        assert rig.connections == 2


async def test_what_is_asked_again_comes_in_frames_of_bounded_size_and_in_order(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        waiting = asyncio.create_task(ask(rig, *range(600)))
        await rig.settle()
        before = len(frames_with_commands(rig))
        await rig.restart_scheduler()
        await rig.clock.advance(0.1)
        assert frames_with_commands(rig)[before:] == [256, 256, 88]
        assert begun(rig) == list(range(600))
        for number, reply in enumerate(rig.plane.replies):
            reply.set_result(number)
        assert await waiting == list(range(600))


async def test_what_is_said_is_cut_into_frames_that_a_line_carries(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart, when all that is unanswered is said at once; one ask that is larger goes alone."""
    monkeypatch.setattr(remote_plane, "FRAME_BYTES", 10_000)
    large = [GetModel(model_id=ModelId("m" * size)) for size in (4_000, 4_000, 4_000, 30_000, 10)]
    asked = [asyncio.create_task(ask(rig, number)) for number in range(9)]
    asked += [asyncio.create_task(rig.remote.query(query)) for query in large]
    async with rig.running(), asyncio.timeout(5):
        await rig.settle()
        assert begun(rig) == list(range(9))
        assert [query for said in rig.said for _, query in said.queries] == large
        assert all(len(encode(said)) <= 10_000 or len(said.queries) == 1 for said in rig.said)
        assert len([said for said in rig.said if said.queries]) > 2
        for task in asked:
            task.cancel()


class Held:
    """A blob store that keeps those waiting who write."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def put(self, key: str, data: bytes) -> None:
        _ = key, data
        await self.go.wait()

    async def delete(self, key: str) -> None:
        _ = key
        await self.go.wait()


async def test_what_waits_for_the_scheduler_is_bounded_in_bytes(rig: Rig) -> None:
    """What is larger than the bound is asked all the same, alone."""
    store: Any = Held()
    async with rig.running(), asyncio.timeout(5):
        rig.plane.store = store
        first = asyncio.create_task(rig.remote.blob("put", "a", b"x" * 2_000))
        await rig.settle()
        with pytest.raises(ResourceExhaustedError, match="1000 bytes wait for the scheduler already"):
            await rig.remote.blob("put", "b", b"x")
        deletion = asyncio.create_task(rig.remote.blob("delete", "c"))  # what has no bytes is in nobody's way
        await rig.settle()
        assert not deletion.done()
        store.go.set()
        await deletion
        await first
        await rig.remote.blob("put", "b", b"x")


@pytest.mark.parametrize("removal", [RemoveModel(model_id=ModelId("m")), RevokeKey(key_id=KeyId("k"))])
async def test_a_removal_whose_acknowledgement_was_lost_is_no_failure(rig: Rig, removal: Command) -> None:
    async with rig.running(), asyncio.timeout(5):
        asked = asyncio.create_task(rig.remote.submit([removal]))
        await rig.settle()
        await rig.restart_scheduler()  # it has done it and not said so
        await rig.clock.advance(0.1)
        rig.plane.replies[0].set_result(NotFoundError("no model m", field="name"))
        assert await asked == [None]
        asked = asyncio.create_task(rig.remote.submit([removal]))
        await rig.settle()
        rig.plane.replies[1].set_result(NotFoundError("no model m", field="name"))
        assert isinstance((await asked)[0], NotFoundError)


async def test_a_removal_that_an_earlier_scheduler_never_heard_of_may_fail(rig: Rig) -> None:
    rig.plane.auto = lambda _: NotFoundError("no model m", field="name")
    asked = asyncio.create_task(rig.remote.submit([RemoveModel(model_id=ModelId("m"))]))
    async with rig.running(), asyncio.timeout(5):
        assert isinstance((await asked)[0], NotFoundError)


async def test_an_ask_whose_caller_has_gone_is_not_asked_again(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        gone, stays = asyncio.create_task(ask(rig, 1)), asyncio.create_task(ask(rig, 2))
        await rig.settle()
        gone.cancel()
        await rig.settle()
        await rig.restart_scheduler()
        await rig.clock.advance(0.1)
        assert begun(rig) == [2]
        rig.plane.replies[0].set_result(None)
        await stays


async def test_what_is_asked_before_the_line_stands_is_sent_when_it_does(rig: Rig) -> None:
    early = asyncio.create_task(ask(rig, 1))
    rig.plane.auto = number_of
    async with rig.running(), asyncio.timeout(5):
        assert await early == [1]


async def test_an_absence_longer_than_the_limit_fails_what_waited_and_what_comes_later_works(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        rig.dialer.away = True
        rig.line.close()
        waiting = asyncio.create_task(ask(rig, 1))
        await rig.clock.advance(29)
        assert not waiting.done()
        await rig.clock.advance(3)
        with pytest.raises(UnavailableError, match="away"):
            await waiting
        rig.dialer.away = False
        rig.plane.auto = number_of
        later = asyncio.create_task(ask(rig, 2))
        await rig.clock.advance(2)
        assert await later == [2]


async def test_an_ask_that_was_long_under_way_outlives_a_short_absence(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        waiting = asyncio.create_task(ask(rig, 1))
        await rig.clock.advance(100)
        await rig.restart_scheduler()
        await rig.clock.advance(0.1)
        rig.plane.replies[0].set_result("late")
        assert await waiting == ["late"]


async def test_a_scheduler_that_stands_and_does_not_answer_is_waited_for_no_longer_than_it_may_take(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        command = asyncio.create_task(ask(rig, 1))
        await rig.clock.advance(299)
        assert not command.done()
        await rig.clock.advance(2)
        (error,) = await command
        assert isinstance(error, DeadlineExceededError)
        rig.plane.replies[0].set_result("too late")
        rig.plane.auto = number_of
        assert await ask(rig, 2) == [2]


async def test_a_scheduler_that_is_away_is_looked_for_with_growing_pauses(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        rig.dialer.away = True
        rig.line.close()
        await rig.clock.advance(20)
        assert 20 < rig.dialer.dialled < 40


async def test_asks_over_the_limit_are_refused_at_once(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        waiting = asyncio.create_task(ask(rig, *range(1000)))
        await rig.settle()
        (refused,) = await ask(rig, 1000)
        assert isinstance(refused, ResourceExhaustedError)
        waiting.cancel()


async def test_orders_are_taken_once_and_acknowledged(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        assert rig.switchboard.reaches("arcray-node-1")
        await rig.switchboard.deliver("arcray-node-1", N1, 3, [ORDER, ORDER])
        assert rig.taken == [(N1, 3, (ORDER, ORDER))]


async def test_orders_that_the_node_refuses_are_refused_to_the_plane(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        rig.refusal = StaleReportError("another epoch", field="epoch")
        with pytest.raises(StaleReportError, match="another epoch"):
            await rig.switchboard.deliver("arcray-node-1", N1, 3, [ORDER])


async def test_orders_under_way_on_a_lost_line_are_unavailable(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        delivery = asyncio.create_task(rig.switchboard.deliver("arcray-node-1", N1, 3, [ORDER]))
        await asyncio.sleep(0)
        rig.line.close()
        with pytest.raises(UnavailableError, match="lost"):
            await delivery
        assert not rig.switchboard.reaches("arcray-node-1")
        with pytest.raises(UnavailableError, match="no line"):
            await rig.switchboard.deliver("arcray-node-1", N1, 3, [ORDER])


async def test_events_arrive_once_and_in_order(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        assert await anext(stream) == EventBatch(events=())
        rig.plane.publish(Topic.NODES, an_event(1))
        rig.plane.publish(Topic.TELEMETRY, an_event(2))
        rig.plane.publish(Topic.NODES, an_event(3), an_event(4))
        got = [*(await anext(stream)).events, *(await anext(stream)).events]
        assert got == [an_event(1), an_event(3), an_event(4)]
        await stream.aclose()
        await rig.settle()
        assert rig.plane.readers == []


async def test_a_stream_goes_on_with_a_gap_after_a_restart(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        await anext(stream)
        await rig.restart_scheduler()
        await rig.clock.advance(0.1)
        assert await anext(stream) == EventBatch(events=(), gap=True)
        rig.plane.publish(Topic.NODES, an_event(1))
        assert await anext(stream) == EventBatch(events=(an_event(1),))
        await stream.aclose()


async def test_a_stream_that_the_scheduler_ends_raises(rig: Rig) -> None:
    async with rig.running(), asyncio.timeout(5):
        stream = rig.remote.events(NODES)
        await anext(stream)
        rig.plane.readers[0][1].put_nowait(UnavailableError("ending"))
        with pytest.raises(UnavailableError):
            await anext(stream)


async def test_what_is_unanswered_fails_when_the_process_ends(rig: Rig) -> None:
    async with rig.running():
        waiting = asyncio.create_task(ask(rig, 1))
        await rig.settle()
    with pytest.raises(UnavailableError, match="ending"):
        await waiting
    with pytest.raises(UnavailableError, match="ending"):
        await ask(rig, 2)
