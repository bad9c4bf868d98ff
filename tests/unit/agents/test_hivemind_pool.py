"""What the HiveMind agent tells a pool, and when; the pool answers as a test says."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from arcray.agents.hivemind_caller import Told
from arcray.agents.hivemind_pool import HivemindPool
from arcray.agents.hivemind_tasks import LiveTask, LiveTasks
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key, result_key
from arcray.core.commands import ReportEnd, Running
from arcray.core.errors import PermissionDeniedError, StaleReportError, UnavailableError, UnsupportedError
from arcray.core.ids import WorkloadId
from arcray.core.node import GpuTelemetry, Telemetry
from arcray.core.quantity import GIB
from arcray.core.workload import Phase, Result
from arcray.facades.hivemind.own_words import Words, gpus_of
from arcray.facades.hivemind.refusals import ErrorCode
from arcray.testing.builders import T0, a_capacity, a_node, node_id
from arcray.testing.clock import FakeClock

YES = Told(success=True, message="", code=ErrorCode.SUCCESS)
NO = Told(success=False, message="no", code=ErrorCode.INTERNAL_ERROR)


@dataclass
class Rig:
    """A pool, and what it was told by method."""

    pool: HivemindPool
    tasks: LiveTasks
    blobs: FsspecBlobs
    clock: FakeClock
    told: list[tuple[str, Any]]
    answers: dict[str, Told | Exception]
    said: dict[str, Words]
    disowned: list[LiveTask] = field(default_factory=list)

    def methods(self) -> list[str]:
        return [method for method, _ in self.told]

    def end(self, task: LiveTask, phase: Phase, **fields: Any) -> ReportEnd:
        return ReportEnd(
            node_id=node_id(1), epoch=1, workload_id=task.workload_id, attempt=task.attempt, phase=phase, **fields
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    told: list[tuple[str, Any]] = []
    said: dict[str, Words] = {}
    answers: dict[str, Told | Exception] = {}
    disowned: list[LiveTask] = []

    async def tell(method: str, request: Message, words: Words) -> Told:
        said[method.partition(".")[2]] = words
        name = method.partition(".")[2]
        answer = answers.get(name, YES)
        if isinstance(answer, Exception):
            raise answer
        told.append((name, request))
        return answer

    clock = FakeClock()
    tasks, blobs = LiveTasks(clock), FsspecBlobs(tmp_path, max_blob_bytes=1 << 20)
    pool = HivemindPool(tell, clock, tasks, blobs, node_id="m", host="127.0.0.1", port=7, disowned=disowned.append)
    return Rig(pool, tasks, blobs, clock, told, answers, said, disowned)


@asynccontextmanager
async def telling(rig: Rig) -> AsyncIterator[None]:
    """The pool's own loops, for the time of the block."""
    running = asyncio.create_task(rig.pool.run())
    await rig.clock.advance(0.0)
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    """Blobs are read in threads, so that turns of the loop are no measure."""
    async with asyncio.timeout(5.0):
        while not holds():  # noqa: ASYNC110 - nothing tells of a thread's end
            await asyncio.sleep(0)


async def test_the_first_registration_gives_up_what_an_earlier_life_had(rig: Rig) -> None:
    found = Running(workload_id=WorkloadId("w"), attempt=1)
    assert await rig.pool.attach(a_node(), [found]) == (found,)
    assert rig.methods() == ["ReportStatus", "RegisterWorkerNode"]
    assert rig.told[0][1].status == "Offline"
    assert await rig.pool.attach(a_node(), [found]) == ()
    assert rig.methods()[2:] == ["RegisterWorkerNode"]


async def test_a_registration_says_what_the_machine_has(rig: Rig) -> None:
    await rig.pool.attach(a_node(), ())
    request = rig.told[-1][1]
    assert (request.node_id, request.hostname, request.port) == ("m", "127.0.0.1", 7)
    assert (request.cpu_cores, request.cpu_score, request.memory_gb) == (8, 800, 32)
    assert (request.docker_status, request.gpu_memory_gb) == ("enabled, containers", 0)


async def test_a_machine_offers_all_of_its_gpus_and_tells_of_them_as_one(rig: Rig) -> None:
    await rig.pool.attach(a_node(capacity=a_capacity(gpus=2, gpu_memory_gib=80)), ())
    request = rig.told[-1][1]
    assert (request.gpu_name, request.gpu_memory_gb) == ("NVIDIA H200", 80)  # for pools that know no more
    assert gpus_of(rig.said["RegisterWorkerNode"]) == a_capacity(gpus=2, gpu_memory_gib=80).gpus
    readings = [
        GpuTelemetry(index=index, utilization=index / 2, memory_used_bytes=40 * GIB * index) for index in (0, 1)
    ]
    await rig.pool.reading(Telemetry(at=T0, gpus=tuple(readings)))
    rig.tasks.add("t")
    async with telling(rig):
        await rig.clock.advance(0.0)
        reading = rig.told[-1][1]
    assert (reading.gpu_usage, reading.gpu_memory_usage) == (25, 25)


async def test_a_pool_that_refuses_the_machine_ends_the_agent(rig: Rig) -> None:
    rig.answers["RegisterWorkerNode"] = NO
    with pytest.raises(PermissionDeniedError):
        await rig.pool.attach(a_node(), ())


async def test_a_machine_that_was_forgotten_registers_again(rig: Rig) -> None:
    await rig.pool.attach(a_node(), ())
    rig.answers["ReportStatus"] = NO
    async with telling(rig):
        with pytest.raises(StaleReportError):
            await rig.pool.reading(None)
        await rig.pool.attach(a_node(), ())
        await rig.pool.reading(None)


async def test_heartbeats_go_on_while_the_pool_is_away(rig: Rig) -> None:
    await rig.pool.attach(a_node(), ())
    rig.told.clear()
    rig.answers["ReportStatus"] = UnavailableError("away")
    async with telling(rig):
        await rig.clock.advance(5.0)
        del rig.answers["ReportStatus"]
        await rig.clock.advance(5.0)
        assert [request.status for _, request in rig.told] == ["Idle"]


async def test_a_task_that_the_pool_has_given_up_is_ended_without_a_word(rig: Rig) -> None:
    await rig.pool.attach(a_node(), ())
    await rig.pool.reading(Telemetry(at=T0, cpu_utilization=0.5))
    task = rig.tasks.add("t")
    rig.answers["ReportRunningStatus"] = Told(success=True, message="", code=ErrorCode.TASK_NOT_FOUND)
    async with telling(rig):
        assert rig.disowned == []
        await rig.clock.advance(5.0)
        assert rig.disowned == [task]
        assert rig.told[-1][1].cpu_usage == 50
    rig.told.clear()
    await rig.pool.end(rig.end(task, Phase.STOPPED))
    assert rig.methods() == []
    assert task.ended.is_set()


async def test_output_is_sent_as_whole_lines_and_its_rest_at_the_end(rig: Rig) -> None:
    task = rig.tasks.add("t")
    key = log_key(task.workload_id)
    await rig.blobs.append(key, b"one\ntw")
    async with telling(rig):
        await until(lambda: len(rig.told) == 1)
        assert rig.told[0][1].output == "one\n"
        await rig.blobs.append(key, b"o\n\xff")
    await rig.pool.end(rig.end(task, Phase.SUCCEEDED))
    assert [request.output for name, request in rig.told if name == "StoreOutput"] == ["one\n", "two\n", "\ufffd"]
    assert rig.methods()[-2:] == ["ReturnTaskResult", "TaskCompleted"]
    assert await rig.blobs.size(key) is None


async def test_every_word_about_a_task_says_what_the_pool_has_said_of_it(rig: Rig) -> None:
    await rig.pool.attach(a_node(), ())
    task = rig.tasks.add("t")
    task.words = {"arcray-attempt": "1 of 5.0"}
    await rig.blobs.append(log_key(task.workload_id), b"one\n")
    async with telling(rig):
        await rig.clock.advance(0.0)
    await rig.pool.end(rig.end(task, Phase.SUCCEEDED, message="its network is slow"))
    about_it = ("ReportRunningStatus", "StoreOutput", "ReturnTaskResult", "TaskCompleted")
    assert [rig.said[method] for method in about_it] == [task.words] * 4
    assert rig.said["ReportStatus"] == {}


async def test_output_that_is_not_taken_is_let_be(rig: Rig) -> None:
    task = rig.tasks.add("t")
    await rig.blobs.append(log_key(task.workload_id), b"one\n")
    rig.answers["StoreOutput"] = NO
    await rig.pool.end(rig.end(task, Phase.FAILED, message="exit code 3"))
    assert rig.methods() == ["StoreOutput", "StoreLogs", "TaskCompleted"]
    assert rig.told[1][1].logs == "exit code 3"
    assert not rig.told[2][1].success


async def test_an_end_that_was_not_heard_is_told_again_without_its_output(rig: Rig) -> None:
    task = rig.tasks.add("t")
    await rig.blobs.append(log_key(task.workload_id), b"one\n")
    key = result_key(task.workload_id, "a/b.txt", task.attempt)
    await rig.blobs.put(key, b"42")
    end = rig.end(task, Phase.SUCCEEDED, result=Result(blobs=(key,)))
    rig.answers["ReturnTaskResult"] = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await rig.pool.end(end)
    assert not task.ended.is_set()
    del rig.answers["ReturnTaskResult"]
    await rig.pool.end(end)
    assert rig.methods() == ["StoreOutput", "ReturnTaskResult", "TaskCompleted"]
    with zipfile.ZipFile(io.BytesIO(rig.told[1][1].result_data)) as bundle:
        assert bundle.read("a/b.txt") == b"42"
    assert await rig.blobs.size(key) is None
    await rig.pool.end(end)
    assert len(rig.told) == 3


async def test_an_end_is_told_once_its_user_is_let_in_again(rig: Rig) -> None:
    task = rig.tasks.add("t")
    end = rig.end(task, Phase.FAILED)
    rig.answers["TaskCompleted"] = PermissionDeniedError("not now")
    with pytest.raises(UnavailableError, match="not now"):
        await rig.pool.end(end)
    assert rig.tasks.named("t") is task
    del rig.answers["TaskCompleted"]
    await rig.pool.end(end)
    assert task.ended.is_set()


async def test_an_end_is_told_to_a_pool_that_has_not_all_methods(rig: Rig) -> None:
    task = rig.tasks.add("t")
    await rig.blobs.append(log_key(task.workload_id), b"one\n")
    for method in ("StoreOutput", "StoreLogs", "ReturnTaskResult"):
        rig.answers[method] = UnsupportedError("no such method")
    await rig.pool.end(rig.end(task, Phase.SUCCEEDED, message="its network is slow"))
    assert rig.methods() == ["TaskCompleted"]
    assert task.ended.is_set()
