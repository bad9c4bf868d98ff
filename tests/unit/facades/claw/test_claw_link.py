"""One node's connection without a socket, over a plane that a test answers for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto.frames import Form, Frame, read_from_gateway, write_to_gateway
from arcray.core.blobkeys import log_key
from arcray.core.commands import Command, ReportEnd, ReportPhase
from arcray.core.errors import ConflictError, StaleReportError, UnavailableError
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.node import Telemetry
from arcray.core.orders import RunInference, StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase
from arcray.facades.claw.link import Limits, Link
from arcray.facades.claw.session import ClawSession, Terms
from arcray.testing.builders import T0, a_workload
from arcray.testing.clock import FakeClock
from arcray.testing.node_fakes import MemoryBlobs
from tests.conformance.claw.claw_rig import AT, ID, registration

S: Final = claw.WorkloadState
WORK: Final = a_workload(1).id
NAME: Final = claw.WorkloadId(WORK)


class AnsweringPlane:
    """The cluster as a link sees it: notes what it is told, and answers as a test says."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.told: list[Command] = []
        self.answers: list[Any] = []
        self.heard = asyncio.Event()

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        self.told += commands
        self.heard.set()
        answers = [self.answers.pop(0) if self.answers else None for _ in commands]
        if any(isinstance(answer, UnavailableError) for answer in answers):
            raise UnavailableError
        return answers

    async def until(self, number: int) -> None:
        async with asyncio.timeout(5):
            while len(self.told) < number:
                self.heard.clear()
                await self.heard.wait()


class Rig:
    """A link whose node has registered and is attached."""

    def __init__(self, link: Link, plane: AnsweringPlane, clock: FakeClock) -> None:
        self.link = link
        self.plane = plane
        self.clock = clock

    async def say(self, message: Any) -> None:
        await self.link.take(write_to_gateway(message, Form.INTERNAL))

    async def tell(self, *states: claw.WorkloadState) -> None:
        for state in states:
            await self.say(claw.WorkloadUpdate(workload_id=NAME, state=state, timestamp=AT))

    async def write(self, *lines: str) -> None:
        await self.say(claw.WorkloadLogs(workload_id=NAME, lines=lines, is_stderr=False))

    async def next(self) -> Any:
        frame: Frame = await asyncio.wait_for(self.link.next(), 5)
        return read_from_gateway(frame)[0]


@asynccontextmanager
async def rig(
    *, frames: int = 16, log_bytes: int = 1 << 20, heard: list[Telemetry | None] | None = None
) -> AsyncIterator[Rig]:
    plane, clock = AnsweringPlane(), FakeClock()

    async def join(link: Link) -> None:
        link.attached(1)

    def hear(_: Link, telemetry: Telemetry | None) -> None:
        if heard is not None:
            heard.append(telemetry)

    link = Link(
        ClawSession(Terms(heartbeat_s=30, metrics_s=10)),
        plane,  # type: ignore[arg-type]  # of a plane it uses no more than there is
        clock,
        limits=Limits(frames=frames, log_bytes=log_bytes),
        admits=lambda: True,
        join=join,
        heard=hear,
    )
    tasks = [asyncio.create_task(link.tell_forever()), asyncio.create_task(link.join_forever())]
    await link.take(write_to_gateway(registration(), Form.INTERNAL))
    while not link.epoch:
        await clock.advance(0)
    yield Rig(link, plane, clock)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def a_start(number: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=WorkloadId(a_workload(number).id),
        attempt=1,
        payload=Container(image="i"),
        demand=Demand(),
        allocation=Allocation(),
        owner="o",
    )


async def test_a_nodes_latency_is_in_all_of_its_readings() -> None:
    heard: list[Telemetry | None] = []
    async with rig(heard=heard) as found:
        metrics = claw.Metrics(node_id=claw.NodeId(ID), gpu_metrics=(), timestamp=AT)
        beat = claw.Heartbeat(node_id=claw.NodeId(ID), timestamp=AT)
        await found.say(metrics)
        found.link.act(found.link.session.ping(found.clock.now()))
        await found.clock.advance(0.25)
        await found.say(beat)
        await found.clock.advance(1)
        await found.say(metrics)
        await found.say(beat)
    assert [None if each is None else each.latency_ms for each in heard] == [None, None, 250, 250, None]
    assert [None if each is None else each.at for each in heard][1:] == [None, T0, T0 + timedelta(seconds=1.25), None]


async def test_words_are_told_in_order_under_the_present_attachment() -> None:
    async with rig() as found:
        await found.link.deliver(1, [a_start()])
        assert isinstance(await found.next(), claw.DeployWorkload)
        await found.tell(S.PULLING, S.STARTING, S.RUNNING, S.COMPLETED)
        await found.plane.until(4)
        assert [(type(told), told.phase) for told in found.plane.told if isinstance(told, ReportPhase | ReportEnd)] == [
            (ReportPhase, Phase.PULLING),
            (ReportPhase, Phase.STARTING),
            (ReportPhase, Phase.RUNNING),
            (ReportEnd, Phase.SUCCEEDED),
        ]


async def test_a_word_is_told_again_once_the_scheduler_is_back() -> None:
    async with rig() as found:
        await found.link.deliver(1, [a_start()])
        found.plane.answers = [UnavailableError()]
        await found.tell(S.PULLING)
        await found.plane.until(1)
        found.link.attached(2)
        while len(found.plane.told) < 2:
            await found.clock.advance(1)
        assert [told.epoch for told in found.plane.told if isinstance(told, ReportPhase)] == [1, 2]


async def test_what_the_cluster_does_not_want_any_more_is_ended() -> None:
    async with rig() as found:
        await found.link.deliver(1, [a_start()])
        await found.next()
        found.plane.answers = [ConflictError("it has ended", field="workloadId")]
        await found.tell(S.PULLING)
        assert await found.next() == claw.StopWorkload(workload_id=NAME, force=True)


async def test_a_connection_that_is_not_its_nodes_any_more_is_closed() -> None:
    async with rig() as found:
        await found.link.deliver(1, [a_start()])
        found.plane.answers = [StaleReportError("node is at epoch 2", field="epoch")]
        await found.tell(S.PULLING)
        assert (await asyncio.wait_for(found.link.ended(), 5)).code == 4000


async def test_orders_are_of_the_present_attachment() -> None:
    async with rig() as found:
        with pytest.raises(UnavailableError):
            await found.link.deliver(2, [a_start()])
        found.link.attached(2)
        with pytest.raises(StaleReportError):
            await found.link.deliver(1, [a_start()])


async def test_a_node_that_reads_nothing_is_given_no_more_than_its_queue_takes() -> None:
    async with rig(frames=2) as found:
        await found.link.deliver(1, [a_start(1), a_start(2)])
        with pytest.raises(UnavailableError, match="2 frames to read"):
            await found.link.deliver(1, [a_start(3)])
        await found.next()
        await found.link.deliver(1, [a_start(3)])


async def test_orders_that_come_together_are_taken_also_where_they_are_more_than_the_queue() -> None:
    async with rig(frames=16) as found:
        await found.link.deliver(1, [a_start(number) for number in range(1, 18)])
        assert found.link.frames == 17
        with pytest.raises(UnavailableError):
            await found.link.deliver(1, [a_start(18)])


async def test_no_order_is_taken_while_what_is_on_the_node_is_counted() -> None:
    async with rig() as found:
        found.link.hold()
        with pytest.raises(UnavailableError):
            await found.link.deliver(1, [a_start()])
        found.link.attached(2)
        await found.link.deliver(2, [a_start()])


async def test_a_node_that_leaves_its_answers_unread_is_closed() -> None:
    async with rig() as found:
        for _ in range(16_384 + 17):
            await found.say(claw.Heartbeat(node_id=claw.NodeId(ID), timestamp=AT))
        assert (await asyncio.wait_for(found.link.ended(), 5)).code == 1013
        assert found.link.frames == 16_384 + 16


async def test_refusals_of_one_node_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as found:
        for _ in range(100):
            await found.link.take("{")
        assert len(caplog.records) == 20
        await found.clock.advance(10)
        await found.link.take("{")
        assert vars(caplog.records[-1])["others"] == 80


async def test_a_request_for_inference_goes_elsewhere() -> None:
    async with rig() as found:
        order = RunInference(
            workload_id=WORK, attempt=1, model_id=ModelId("m"), input=None, context_window_tokens=1, timeout_s=1.0
        )
        await found.link.deliver(1, [order])
        await found.plane.until(1)
        (told,) = found.plane.told
        assert isinstance(told, ReportEnd)
        assert told.refused


async def test_a_stop_of_what_is_not_there_is_answered_for_the_node() -> None:
    async with rig() as found:
        await found.link.deliver(1, [StopAttempt(workload_id=WORK, attempt=1, grace_s=1.0)])
        await found.plane.until(1)
        (told,) = found.plane.told
        assert isinstance(told, ReportEnd)
        assert told.phase is Phase.STOPPED


async def test_frames_of_a_node_are_left_unread_while_the_scheduler_takes_nothing() -> None:
    async with rig() as found:
        await found.link.deliver(1, [a_start()])
        found.plane.answers = [UnavailableError()]
        await found.tell(S.PULLING)  # waits for the scheduler, and what comes behind it waits too
        await found.plane.until(1)
        writing = asyncio.create_task(written(found))
        while not found.link.words > 4:
            await found.clock.advance(0)
        assert not writing.done()
        while not writing.done():
            await found.clock.advance(1)
        await found.link.drained(5.0)
        assert found.link.words == 0


async def written(found: Rig) -> None:
    for _ in range(6):
        await found.write("x" * 900_000)


async def test_a_log_is_cut_at_its_limit_once() -> None:
    async with rig(log_bytes=1024) as found:
        await found.link.deliver(1, [a_start()])
        for _ in range(4):
            await found.write("x" * 499)
        await found.link.drained(5.0)
        log = await found.plane.blobs.get(log_key(WORK))
        assert log.count(b"[no more is kept") == 1
