"""What is done before what, where a Resource Pool is told: with a real disk, and a node that takes what it is given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from arcray.agents.device import device_name
from arcray.agents.device_pool import DevicePool
from arcray.agents.device_session import DeviceSession
from arcray.agents.device_words import FILES_BYTES
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key, program_key, result_key
from arcray.core.commands import ReportEnd
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.orders import Order, StartWorkload, StopAttempt
from arcray.core.workload import Phase, Result
from arcray.facades.pool.codec import read
from arcray.facades.pool.messages import TaskComplete
from arcray.facades.pool.programs import Programs
from arcray.pool_settings import DeviceSettings
from arcray.testing.builders import a_node
from arcray.testing.clock import FakeClock, SequenceIds

T = WorkloadId("00000000-0000-4000-8000-000000000001")
CODE = program_key(T, archive=False)


@dataclass
class Rig:
    """A pool, its session and its disk."""

    pool: DevicePool
    session: DeviceSession
    blobs: FsspecBlobs
    taken: list[tuple[Order, bool]] = field(default_factory=list)
    refusal: UnavailableError | None = None
    asked_to_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def say(self, kind: str, **values: Any) -> None:
        await self.pool.act(self.session.received(json.dumps({"type": kind, **values})))

    async def assign(self) -> StartWorkload:
        await self.say("task_assign", taskId=T, task={"data": {"program": {"source": "print(1)"}}})
        order, _ = self.taken[-1]
        assert isinstance(order, StartWorkload)
        return order

    async def end(self, order: Order, phase: Phase = Phase.SUCCEEDED, **fields: Any) -> None:
        work_id, attempt = order.workload_id, order.attempt
        report = ReportEnd(node_id=a_node().id, epoch=1, workload_id=work_id, attempt=attempt, phase=phase, **fields)
        await self.pool.end(report)

    def ends(self) -> list[TaskComplete]:
        said = [read(frame) for frame in self.session.take()]
        return [each for each in said if isinstance(each, TaskComplete)]


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    clock = FakeClock()
    session = DeviceSession(
        clock,
        SequenceIds(),
        DeviceSettings(),
        device_id="d",
        name="n",
        platform="linux",
        max_tasks=2,
        programs=Programs({}),
    )
    blobs = FsspecBlobs(tmp_path / "blobs", max_blob_bytes=8 << 20)

    async def take(orders: Sequence[Order]) -> None:
        if made.refusal is not None:
            raise made.refusal
        made.taken += [(order, await blobs.size(CODE) is not None) for order in orders]
        if any(isinstance(order, StopAttempt) for order in orders):
            made.asked_to_end.set()

    made = Rig(DevicePool(session, blobs, take=take, output_bytes=8), session, blobs)
    await made.pool.attach(a_node(), ())
    session.opened()
    await made.say("devices", devices=[])
    return made


async def test_what_a_task_needs_is_on_the_disk_before_it_begins_and_gone_after_its_end(rig: Rig) -> None:
    order = await rig.assign()
    assert rig.taken == [(order, True)]
    await rig.blobs.append(log_key(T), b"out\n")
    await rig.blobs.put(result_key(T, "a/b.txt", order.attempt), b"\xff")
    blobs = (result_key(T, "a/b.txt", order.attempt),)
    await rig.end(order, result=Result(exit_code=0, blobs=blobs))
    (done,) = rig.ends()
    assert (done.success, done.output, done.files, done.exit_code) == (True, "out\n", {"a/b.txt": b"\xff"}, 0)
    for key in (CODE, log_key(T), *blobs):
        assert await rig.blobs.size(key) is None


async def test_a_success_is_told_by_its_beginning_and_a_failure_by_its_end(rig: Rig) -> None:
    for phase, told in ((Phase.SUCCEEDED, "01234567"), (Phase.FAILED, "456789é")):
        order = await rig.assign()
        await rig.blobs.append(log_key(T), "0123456789é".encode())
        await rig.end(order, phase, message="")
        (done,) = rig.ends()
        assert (done.output, done.error) == (told, "" if done.success else "it failed")
        rig.session.closed()
        rig.session.opened()
        await rig.say("devices", devices=[])


async def test_results_that_no_frame_takes_have_a_task_fail(rig: Rig) -> None:
    order = await rig.assign()
    key = result_key(T, "big", order.attempt)
    await rig.blobs.put(key, bytes(FILES_BYTES))
    await rig.end(order, result=Result(exit_code=0, blobs=(key,)))
    (done,) = rig.ends()
    assert (done.success, done.files) == (False, {})
    assert done.error == "its results have 4194304 bytes, and at most 4194304 can be returned"


async def test_results_that_are_lost_have_a_task_fail(rig: Rig) -> None:
    order = await rig.assign()
    await rig.end(order, result=Result(exit_code=0, blobs=(result_key(T, "gone", order.attempt),)))
    (done,) = rig.ends()
    assert done.error.startswith("its results are lost: ")


async def test_a_task_that_the_node_does_not_take_is_refused(rig: Rig) -> None:
    rig.refusal = UnavailableError("full")
    await rig.say("task_assign", taskId=T, task={"data": {"program": {"source": ""}}})
    assert [(done.error, done.refused) for done in rig.ends()] == [("full", True)]


async def test_the_next_connection_waits_until_what_the_last_one_left_has_ended(rig: Rig) -> None:
    order = await rig.assign()
    rig.session.closed()
    waiting = asyncio.create_task(rig.pool.lost())
    await rig.asked_to_end.wait()
    assert not waiting.done()
    await rig.end(order, Phase.STOPPED)
    await waiting
    assert rig.session.running == 0


def test_names_are_one_line_and_not_long() -> None:
    assert device_name("Büro 7") == "Büro 7"
    assert device_name("")
    for name in ("a\nb", "x" * 257):
        with pytest.raises(InvalidArgumentError, match="name: must have 1 to 256"):
            device_name(name)
