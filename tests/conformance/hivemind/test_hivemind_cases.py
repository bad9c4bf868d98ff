"""The protocol's cases about workers and their tasks, each from end to end: over the whole facade, by calls alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from arcray.core.events import Topic
from arcray.core.queries import GetNode
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.workers import node_id_of
from arcray.testing.clock import FakeClock
from tests.conformance.hivemind.worker_rig import CODE, PATIENCE_S, FakeWorker
from tests.hivemind_server import HiveMind, hivemind

UPLOAD, POLL, LIST = "MasterNodeService/UploadTask", "MasterNodeService/PollTaskStatus", "MasterNodeService/GetAllTasks"
COMPLETED = "MasterNodeService/TaskCompleted"


@asynccontextmanager
async def a_worker(served: HiveMind, name: str = "worker-1", **fields: Any) -> AsyncIterator[FakeWorker]:
    """A worker that was reached."""
    worker = FakeWorker()
    await worker.start()
    try:
        await register(served, worker, name, **fields)
        yield worker
    finally:
        await worker.die()


async def register(served: HiveMind, worker: FakeWorker, name: str, **fields: Any) -> None:
    given: dict[str, Any] = {
        "node_id": name,
        "hostname": "127.0.0.1",
        "port": worker.port,
        "cpu_cores": 8,
        "memory_gb": 8,
    }
    answer = await served.call("NodeManagerService/RegisterWorkerNode", **(given | fields))
    assert answer.success, answer.message

    async def reached() -> bool:
        view: Any = await served.cluster.plane.query(GetNode(node_id=node_id_of(name)))
        return bool(view.registration.capabilities.programs)

    await until(served, reached)


async def until(served: HiveMind, holds: Callable[[], Awaitable[bool]]) -> None:
    events = served.cluster.plane.events(frozenset({Topic.WORKLOADS, Topic.NODES}))
    async with asyncio.timeout(PATIENCE_S):
        async for _ in events:
            if await holds():
                break
    await events.aclose()


async def status_is(served: HiveMind, task_id: str, status: str) -> None:
    async def holds() -> bool:
        return str((await served.call(POLL, task_id=task_id)).status) == status

    await until(served, holds)


async def upload(served: HiveMind, task_id: str, **fields: Any) -> None:
    given: dict[str, Any] = {"task_id": task_id, "task_data": CODE, "user_id": "user123"}
    answer = await served.call(UPLOAD, **(given | fields))
    assert answer.success, answer.message


async def test_case_11_a_status_of_an_unknown_node_is_refused() -> None:
    async with hivemind(nodes=[]) as served:
        found = await served.answer("NodeManagerService/ReportStatus", node_id="nobody", status="Idle")
        assert (found.message.success, found.code) == (False, 2001)


async def test_case_17_logs_in_seconds_and_milliseconds_have_the_same_time_and_their_order() -> None:
    async with hivemind(nodes=[]) as served, a_worker(served):
        await upload(served, "task-001")
        await status_is(served, "task-001", "RUNNING")
        for logs, timestamp in (("first", 1640995200), ("second", 1640995200000)):
            told: dict[str, Any] = {"node_id": "worker-1", "task_id": "task-001", "logs": logs, "timestamp": timestamp}
            assert (await served.call("MasterNodeService/StoreLogs", **told)).success
        read = await served.call("MasterNodeService/GetTaskLogs", task_id="task-001")
        assert read.logs == "[2022-01-01 00:00:00] [worker-1] first\n[2022-01-01 00:00:00] [worker-1] second"


async def test_case_19_a_failure_after_the_completion_changes_nothing_and_before_it_fails_the_task() -> None:
    async with hivemind(nodes=[]) as served, a_worker(served):
        for task_id in ("done", "failing"):
            await upload(served, task_id)
            await status_is(served, task_id, "RUNNING")
        ended: dict[str, Any] = {"node_id": "worker-1", "success": False}
        assert (await served.call("MasterNodeService/StoreResult", task_id="done", result_data=b"r")).success
        assert (await served.call(COMPLETED, task_id="done", **ended)).success
        assert (await served.call(COMPLETED, task_id="failing", **ended)).success
        assert (await served.ended("done")).status == "COMPLETED"
        assert (await served.ended("failing")).status == "FAILED"
        assert (await served.call("MasterNodeService/GetTaskResult", task_id="done")).result_data == b"r"
        unknown = await served.answer(COMPLETED, task_id="nobody", **ended)
        assert (unknown.message.success, unknown.code) == (False, 3001)


async def test_case_23_tasks_go_to_the_worker_of_the_highest_trust_that_is_free() -> None:
    async with (
        hivemind(nodes=[]) as served,
        a_worker(served, "normal", cpu_score=10, trust_level=60),
        a_worker(served, "high", cpu_score=10, trust_level=100),
    ):
        for task_id in ("first", "second"):
            await upload(served, task_id, cpu_score=10)
            await status_is(served, task_id, "RUNNING")
        await upload(served, "too-large", cpu_score=20)
        tasks = (await served.call(LIST)).tasks
        assert {task.task_id: task.assigned_node for task in tasks} == {
            "first": "high", "second": "normal", "too-large": "",
        }  # fmt: skip
        polled = await served.call(POLL, task_id="too-large")
        assert (polled.success, polled.status) == (True, "PENDING")
        assert polled.message


async def test_case_25_a_worker_of_loopback_gets_the_bytes_unchanged_and_what_it_refuses_waits_again() -> None:
    async def refuse(_: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        return pool.ExecuteTaskResponse(success=False, message="busy")

    data = bytes(range(1, 128)) * 50 + "# ü".encode()
    async with hivemind(nodes=[]) as served, a_worker(served) as worker:
        worker.execute = refuse
        await upload(served, "task-001", task_data=data)
        await worker.until(lambda: bool(worker.taken))
        await status_is(served, "task-001", "PENDING")
        worker.execute = None
        async with a_worker(served, "worker-2") as willing:
            await status_is(served, "task-001", "RUNNING")
            taken = (*worker.taken, *willing.taken)
            assert {(request.task_id, request.task_data) for request in taken} == {("task-001", data)}
            returned: dict[str, Any] = {"task_id": "task-001", "result_data": b"r"}
            assert (await served.call("MasterNodeService/ReturnTaskResult", **returned)).success
            assert (await served.ended("task-001")).status == "COMPLETED"


async def test_a_task_whose_owner_cannot_pay_the_next_minute_is_stopped_and_the_sum_of_credits_stays() -> None:
    clock = FakeClock()
    async with hivemind(nodes=[], clock=clock) as served:
        ana, bo = await served.user("ana"), await served.user("bo")
        worker = FakeWorker()
        await worker.start()
        try:
            await register(served, worker, "ana", cpu_score=100)
            await upload(served, "task-001", user_id="bo", cpu_score=60)
            await status_is(served, "task-001", "RUNNING")
            for _ in range(13):  # a beat is heard within the lease, and the second minute begins
                assert (await served.call("NodeManagerService/ReportStatus", node_id="ana", status="Idle")).success
                await clock.advance(5.0)
            ended = await served.ended("task-001")
            assert (ended.status, "out of credits" in ended.message) == ("STOPPED", True)
            assert worker.stopped == ["task-001"]
            assert [await served.balance(token) for token in (ana, bo)] == [160, 40]
        finally:
            await worker.die()


@pytest.mark.parametrize("first", [UPLOAD, "TaskWorkerService/ExecuteTask"])
async def test_a_task_id_is_taken_once_by_whichever_service(first: str) -> None:
    async with hivemind(nodes=[]) as served:
        second = ({UPLOAD, "TaskWorkerService/ExecuteTask"} - {first}).pop()
        for method, success in ((first, True), (first, False), (second, False)):
            fields: dict[str, Any] = {"user_id": "ana"} if method is UPLOAD else {"task_type": "python"}
            answer = await served.answer(method, task_id="task-001", task_data=CODE, **fields)
            assert (method, answer.message.success) == (method, success)
            assert success or answer.message.message == "task_id: is taken: there is a task of that id"


@pytest.mark.parametrize("task_id", ["task-001.arcray-2", "arcray-00000000-0000-0000-0000-0000b0000001"])
async def test_no_task_is_called_as_attempts_and_work_of_others_are(task_id: str) -> None:
    async with hivemind(nodes=[]) as served:
        refused = await served.call(UPLOAD, task_id=task_id, task_data=CODE, user_id="ana")
        assert not refused.success
        assert refused.message.startswith("task_id: is what arcray calls ")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cpu_cores": -1}, "cpu_cores"),
        ({"cpu_score": -1}, "cpu_score"),
        ({"gpu_score": -(2**31)}, "gpu_score"),
        ({"memory_gb": -1}, "memory_gb"),
        ({"memory_gb": 2**31 - 1}, "memory_gb"),
        ({"gpu_memory_gb": 2**31 - 1}, "gpu_memory_gb"),
        ({"port": 65_536}, "port"),
        ({"hostname": "a b"}, "hostname"),
        ({"node_id": ""}, "node_id"),
        ({"location": "\0"}, "location"),
    ],
)
async def test_a_worker_that_cannot_be_is_refused_by_the_name_of_its_field(fields: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {"node_id": "w", "hostname": "127.0.0.1", "port": 1, "cpu_cores": 8, "memory_gb": 8}
    async with hivemind(nodes=[]) as served:
        refused = await served.call("NodeManagerService/RegisterWorkerNode", **(given | fields))
        assert not refused.success
        assert refused.message.startswith(f"{field}: "), refused.message
        listed = await served.call("NodeManagerService/GetNodeList")
        assert list(listed.nodes) == []
