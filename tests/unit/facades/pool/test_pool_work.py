"""A device's end of its attachment, on a clock that is told: orders, ends, and what the cluster is told of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from arcray.core.blobkeys import key_for
from arcray.core.commands import Command, ReportEnd, ReportPhase
from arcray.core.errors import ArcrayError, StaleReportError, UnavailableError
from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Phase, Program, Result
from arcray.facades.pool.messages import TaskComplete
from arcray.facades.pool.work import DeviceWork
from arcray.testing.clock import FakeClock
from arcray.testing.node_fakes import MemoryBlobs

ID = WorkloadId("00000000-0000-4000-8000-000000000001")
NODE = NodeId("00000000-0000-4000-8000-00000000000a")


class Plane:
    """Takes reports, or refuses them as it is told."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        self.told: list[Any] = []
        self.refusals: list[ArcrayError] = []

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        if self.refusals:
            return [self.refusals.pop(0)]
        self.told += commands
        return [None]


class Rig:
    """A device that is attached under epoch 3."""

    def __init__(self) -> None:
        self.plane, self.clock, self.sent = Plane(), FakeClock(), list[Any]()
        plane: Any = self.plane
        self.work = DeviceWork(plane, self.clock, NODE, send=self._send, log_bytes=8)
        self.work.epoch = 3
        self.plane.blobs.data["code"] = b"print(1)"

    def _send(self, frame: str) -> None:
        self.sent.append(json.loads(frame))

    async def give(self, *orders: Order, epoch: int = 3) -> None:
        await self.work.deliver(epoch, orders)
        await self.clock.advance(0)

    async def done(self, *, success: bool = True, output: str = "out") -> None:
        self.work.done(TaskComplete(device_id="A", task_id=ID, success=success, output=output, error=""))
        await self.clock.advance(0)

    def reports(self) -> list[tuple[str, str]]:
        return [(type(each).__name__, each.phase.value) for each in self.plane.told]


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.work.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def start(payload: Any = None) -> StartWorkload:
    return StartWorkload(
        workload_id=ID,
        attempt=1,
        payload=payload or Program(blob="code"),
        demand=Demand(),
        allocation=Allocation(),
        owner="me",
    )


STOP = StopAttempt(workload_id=ID, attempt=1, grace_s=10.0)


async def test_an_order_goes_to_the_device_once_and_its_end_to_the_cluster() -> None:
    async with running() as rig:
        await rig.give(start())
        await rig.give(start())
        assert [frame["type"] for frame in rig.sent] == ["task_assign"]
        await rig.done()
        assert rig.reports() == [("ReportPhase", "running"), ("ReportEnd", "succeeded")]
        assert rig.plane.blobs.data[f"logs/{ID}.log"] == b"out"
        await rig.done()
        assert len(rig.plane.told) == 2


async def test_what_a_device_left_and_how_it_ended_go_with_the_end() -> None:
    async with running() as rig:
        await rig.give(start())
        rig.work.done(
            TaskComplete(device_id="A", task_id=ID, success=True, exit_code=7, files={"b": b"2", "a/c": b"1"})
        )
        await rig.clock.advance(0)
    end = rig.plane.told[-1]
    keys = (f"results/{ID}/a/c", f"results/{ID}/b")
    assert (end.refused, end.result) == (False, Result(exit_code=7, blobs=keys))
    assert [rig.plane.blobs.data[key] for key in keys] == [b"1", b"2"]


async def test_what_a_device_refuses_may_go_elsewhere_unless_it_was_stopped() -> None:
    refused = TaskComplete(device_id="A", task_id=ID, success=False, error="full", refused=True)
    async with running() as rig:
        await rig.give(start())
        rig.work.done(refused)
        await rig.clock.advance(0)
    assert (rig.plane.told[-1].phase, rig.plane.told[-1].refused) == (Phase.FAILED, True)
    async with running() as rig:
        await rig.give(start(), STOP)
        rig.work.done(refused)
        await rig.clock.advance(0)
    assert (rig.plane.told[-1].phase, rig.plane.told[-1].refused) == (Phase.STOPPED, False)


async def test_code_that_is_its_own_key_goes_to_the_device() -> None:
    async with running() as rig:
        await rig.give(start(Program(blob=key_for(b"print(2)", ""), stdin_blob=key_for(b"in", ""))))
        (frame,) = rig.sent
        assert '"print(2)"' in json.dumps(frame)
        assert '"input": "in"' in json.dumps(frame)


async def test_what_is_written_is_cut_at_the_limit() -> None:
    async with running() as rig:
        await rig.give(start())
        await rig.done(output="0123456789")
    assert rig.plane.blobs.data[f"logs/{ID}.log"] == b"01234567"


async def test_orders_of_another_attachment_are_not_taken() -> None:
    async with running() as rig:
        with pytest.raises(StaleReportError):
            await rig.work.deliver(2, [start()])
        with pytest.raises(UnavailableError):
            await rig.work.deliver(4, [start()])
    assert rig.sent == []


async def test_a_device_that_does_not_end_what_it_is_told_to_is_not_waited_for() -> None:
    async with running() as rig:
        await rig.give(start(), STOP)
        assert [frame["type"] for frame in rig.sent] == ["task_assign", "task_cancel"]
        await rig.clock.advance(14.9)
        assert rig.reports() == [("ReportPhase", "running")]
        await rig.clock.advance(0.2)
        assert rig.reports()[-1] == ("ReportEnd", "stopped")
        await rig.done()
        assert len(rig.plane.told) == 2


async def test_what_is_stopped_and_was_never_there_has_ended() -> None:
    async with running() as rig:
        await rig.give(STOP)
    assert rig.reports() == [("ReportEnd", "stopped")]


@pytest.mark.parametrize(
    "order",
    [
        start(Program(blob="missing")),
        RunInference(
            workload_id=ID, attempt=1, model_id=ModelId("m"), input=None, context_window_tokens=1, timeout_s=1.0
        ),
    ],
)
async def test_what_cannot_be_given_is_refused_and_goes_elsewhere(order: Order) -> None:
    async with running() as rig:
        await rig.give(order)
    (report,) = rig.plane.told
    assert isinstance(report, ReportEnd)
    assert (report.phase, report.refused) == (Phase.FAILED, True)
    assert rig.sent == []


async def test_a_report_is_told_again_while_the_scheduler_is_away_and_under_the_epoch_that_stands() -> None:
    async with running() as rig:
        rig.plane.refusals = [UnavailableError(), UnavailableError()]
        await rig.give(start())
        assert rig.plane.told == []
        rig.work.epoch = 4
        await rig.clock.advance(1.0)
        (report,) = rig.plane.told
    assert isinstance(report, ReportPhase)
    assert report.epoch == 4


async def test_work_that_nobody_wants_any_more_is_cancelled() -> None:
    async with running() as rig:
        rig.plane.refusals = [StaleReportError(field="attempt")]
        await rig.give(start())
    assert [frame["type"] for frame in rig.sent] == ["task_assign", "task_cancel"]
    assert rig.work.inventory() == ()
