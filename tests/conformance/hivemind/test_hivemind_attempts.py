"""Words of an earlier attempt: late, doubled, out of order. Workers know of no attempts and say the id they got."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from arcray.core.blobkeys import foreign_log_key, log_key, result_key
from arcray.core.node import Health
from arcray.core.workload import Phase, WorkloadSpec
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.testing.builders import T0
from tests.conformance.hivemind.worker_rig import CODE, OK, FakeWorker, Pool, Stub, a_pool, in_phase, upload

MASTER = "MasterNodeService"
NOT_THERE = "task_id: no such task on that worker"


def words(task_id: str, node: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns everything that a worker may say of an attempt."""
    named = {"node_id": node, "task_id": task_id}
    return [
        (f"{MASTER}.StoreOutput", {"task_id": task_id, "output": text}),
        ("WorkerNodeService.ReportOutput", {**named, "output": text}),
        (f"{MASTER}.StoreLogs", {**named, "logs": text, "timestamp": 1640995200}),
        (f"{MASTER}.StoreResult", {"task_id": task_id, "result_data": text.encode()}),
        (f"{MASTER}.ReturnTaskResult", {"task_id": task_id, "result_data": text.encode()}),
        (f"{MASTER}.TaskCompleted", {**named, "success": True}),
        (f"{MASTER}.TaskCompleted", {**named, "success": False}),
    ]


async def say_in_vain(served: Pool, task_id: str, node: str = "worker-1") -> None:
    """Says everything twice, in another order each time; none of it is taken."""
    said = words(task_id, node, "old")
    for each in (said, said[::-1]):
        for method, fields in each:
            answer = await served.call(method, **fields)
            assert (method, answer.success, answer.message) == (method, False, NOT_THERE)


async def offline(served: Pool, node: str) -> None:
    assert (await served.call("NodeManagerService.ReportStatus", node_id=node, status="Offline")).success
    assert (await served.node(node)).health is Health.GONE


async def lost_once(served: Pool) -> tuple[WorkloadSpec, FakeWorker]:
    """A task whose first worker went, and that runs on ``worker-2`` now."""
    await served.register(await served.worker())
    spec = await upload(served)
    await in_phase(served, spec, Phase.RUNNING)
    assert (await served.call(f"{MASTER}.StoreOutput", task_id="task-001", output="first")).success
    await offline(served, "worker-1")
    second = await served.worker()
    await served.register(second, "worker-2")
    await in_phase(served, spec, Phase.RUNNING, attempt=2)
    return spec, second


async def test_words_of_a_worker_that_was_given_up_change_nothing() -> None:
    async with a_pool() as served:
        spec, second = await lost_once(served)
        (request,) = second.taken
        assert (request.task_id, request.task_data) == ("task-001.arcray-2", CODE)
        await say_in_vain(served, "task-001")
        await say_in_vain(served, "task-001", "worker-2")
        before = await served.work(spec.id)
        assert (before.phase, before.attempt) == (Phase.RUNNING, 2)

        output, _, logs, _, result, *_ = words(request.task_id, "worker-2", "new")
        for method, fields in (output, logs, result):
            assert (await served.call(method, **fields)).success
        after = await served.cluster.finished(spec.id)
        await say_in_vain(served, "task-001")
        assert await served.work(spec.id) == after
        assert after.result is not None
        assert after.result.blobs == (result_key(spec.id, "result_data", 2),)
        blobs = served.cluster.plane.blobs
        assert await blobs.get(after.result.blobs[0]) == b"new"
        assert await blobs.get(log_key(spec.id)) == b"first\nnew\n"
        assert await blobs.get(foreign_log_key(spec.id)) == b"[2022-01-01 00:00:00] [worker-2] new\n"
        assert await blobs.size(result_key(spec.id, "result_data")) is None


async def test_a_reading_of_an_attempt_that_was_given_up_says_so() -> None:
    async with a_pool() as served:
        await lost_once(served)
        reading = {"node_id": "worker-2", "task_id": "task-001"}
        answer = await served.call("WorkerNodeService.ReportRunningStatus", **reading)
        assert (answer.success, answer.message) == (True, "heard; no such task runs there")
        reading["task_id"] = "task-001.arcray-2"
        assert (await served.call("WorkerNodeService.ReportRunningStatus", **reading)).message == "RUNNING"


async def test_words_of_the_same_workers_earlier_attempt_change_nothing() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        await offline(served, "worker-1")
        await served.register(worker)
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        assert set(worker.stopped) == {"task-001"}
        assert [request.task_id for request in worker.taken] == ["task-001", "task-001.arcray-2"]
        await say_in_vain(served, "task-001")
        ended = {"task_id": "task-001.arcray-2", "node_id": "worker-1", "success": False}
        assert (await served.call(f"{MASTER}.TaskCompleted", **ended)).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.FAILED


async def test_a_worker_that_comes_back_ends_what_went_elsewhere_and_nothing_that_it_has_ended() -> None:
    async with a_pool() as served:
        first, second = await served.worker(), await served.worker()
        await served.register(first)
        ended = await upload(served, "task-000")
        await in_phase(served, ended, Phase.RUNNING)
        said = {"task_id": "task-000", "node_id": "worker-1", "success": True}
        assert (await served.call(f"{MASTER}.TaskCompleted", **said)).success
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        await offline(served, "worker-1")
        await served.register(second, "worker-2")
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        await served.register(first)
        await first.until(lambda: bool(first.stopped))
        again = await upload(served, "task-002")
        await in_phase(served, again, Phase.RUNNING)
        assert (first.stopped, second.stopped) == (["task-001"], [])
        assert (await served.work(spec.id)).phase is Phase.RUNNING


async def test_words_of_an_attempt_that_was_given_back_in_doubt_change_nothing() -> None:
    """The worker answers too late: it may have begun, and what it says of that comes during the next attempt."""
    begun = asyncio.Event()

    async def late(request: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        if request.task_id == "task-001":
            await begun.wait()
        return OK

    async with a_pool(dial_timeout_s=0.3) as served:
        worker = await served.worker(late)
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        begun.set()
        assert [request.task_id for request in worker.taken] == ["task-001", "task-001.arcray-2"]
        await say_in_vain(served, "task-001")
        assert (await served.work(spec.id)).phase is Phase.RUNNING


async def test_a_task_that_was_refused_keeps_its_id() -> None:
    async def refuse(_: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        return pool.ExecuteTaskResponse(success=False, message="busy")

    async with a_pool() as served:
        busy = await served.worker(refuse)
        await served.register(busy)
        spec = await upload(served)
        await busy.until(lambda: bool(busy.taken))
        free = await served.worker()
        await served.register(free, "worker-2")
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        assert [(each.task_id, each.task_data) for each in free.taken] == [("task-001", CODE)]
        assert (await served.call(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=b"r")).success


async def test_words_of_a_task_whose_id_has_come_again_change_nothing_where_the_worker_tells_them_apart() -> None:
    async with a_pool() as served, AsyncExitStack() as stack:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        (said,) = worker.words
        assert said == {"arcray-attempt": f"1 of {T0.timestamp()!r}"}
        for stale in ("1 of 5.0", f"2 of {T0.timestamp()!r}", ""):
            stub = Stub(served.address, words={"arcray-attempt": stale})
            stack.push_async_callback(stub.close)
            for method, fields in words("task-001", "worker-1", "old"):
                assert (await stub(method, **fields)).message == NOT_THERE
        stub = Stub(served.address, words=said)
        stack.push_async_callback(stub.close)
        assert (await stub(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=b"new")).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_the_order_of_words_only_the_present_attempt_counts(seed: int) -> None:
    chance = random.Random(seed)
    async with a_pool() as served:
        spec, _ = await lost_once(served)
        stale = [*words("task-001", "worker-1", "old"), *words("task-001", "worker-2", "old")] * 2
        output, *_, returned, _, _ = words("task-001.arcray-2", "worker-2", "new")
        chance.shuffle(stale)
        middle = chance.randrange(len(stale))
        for method, fields in (*stale[:middle], output, *stale[middle:], returned, *stale):
            answer = await served.call(method, **fields)
            assert answer.success is (fields["task_id"] != "task-001")
        view = await served.cluster.finished(spec.id)
        assert (view.phase, view.attempt, view.restarts) == (Phase.SUCCEEDED, 2, 1)
        assert await served.cluster.plane.blobs.get(log_key(spec.id)) == b"first\nnew\n"
