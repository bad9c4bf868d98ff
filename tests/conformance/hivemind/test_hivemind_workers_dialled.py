"""Workers that are dialled: what they get, and what happens to a task whatever they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from arcray.core.blobkeys import program_key
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.node import Health
from arcray.core.workload import Phase, Program, WorkloadSpec
from arcray.facades.hivemind.containers import OFFERS_CONTAINERS, asked_of
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words, saying_instance
from arcray.testing.builders import a_container, a_workload
from arcray.testing.plane import in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.system import SystemClock
from tests.conformance.hivemind.worker_rig import (
    CODE,
    PATIENCE_S,
    FakeWorker,
    Pool,
    Stub,
    a_gateway,
    a_pool,
    in_phase,
    upload,
)


async def test_a_worker_gets_a_task_as_it_was_uploaded_and_runs_it() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        assert (await served.register(worker)).success
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        (request,) = worker.taken
        assert (request.task_id, request.task_data) == ("task-001", CODE)
        answer = await served.call(
            "MasterNodeService.TaskCompleted", task_id="task-001", node_id="worker-1", success=True
        )
        assert answer.success
        view = await served.cluster.finished(spec.id)
        assert view.phase is Phase.SUCCEEDED


async def test_a_task_that_a_worker_refuses_runs_elsewhere() -> None:
    async def refuse(_: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        return pool.ExecuteTaskResponse(success=False, message="busy")

    async with a_pool() as served:
        worker = await served.worker(refuse)
        await served.register(worker)
        spec = await upload(served)
        await worker.until(lambda: bool(worker.taken))
        await served.cluster.attach(SimulatedNode("other"))
        view = await served.cluster.finished(spec.id, PATIENCE_S)
        assert view.phase is Phase.SUCCEEDED
        assert view.attempts[0].refused
        assert "busy" in view.attempts[0].message
        assert view.restarts == 0


async def test_a_task_whose_worker_fails_to_answer_is_stopped_there() -> None:
    async def fail(_: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        raise NotImplementedError

    async with a_pool() as served:
        worker = await served.worker(fail)  # gRPC answers UNKNOWN for it, so that it may have begun
        await served.register(worker)
        await upload(served)
        await worker.until(lambda: worker.stopped == ["task-001"])
        assert len(worker.taken) == 1


async def test_what_a_worker_answers_too_late_is_stopped_before_it_runs_elsewhere() -> None:
    late = asyncio.Event()

    async def wait(_: pool.ExecuteTaskRequest) -> pool.ExecuteTaskResponse:
        await late.wait()
        return pool.ExecuteTaskResponse(success=True)

    other = SimulatedNode("other")
    async with a_pool(dial_timeout_s=0.3) as served:
        worker = await served.worker(wait)
        await served.register(worker)
        spec = await upload(served)
        await worker.until(lambda: bool(worker.taken))
        await served.cluster.attach(other)
        assert not worker.stopped
        view = await served.cluster.finished(spec.id, PATIENCE_S)
        assert worker.stopped == ["task-001"]
        assert view.phase is Phase.SUCCEEDED
        assert other.executed == [(spec.id, 2)]
    late.set()


async def test_a_worker_that_was_never_reached_is_listed_and_gets_nothing() -> None:
    async with a_pool(dial_timeout_s=0.2) as served:
        answer = await served.call(
            "NodeManagerService.RegisterWorkerNode",
            node_id="worker-001", hostname="127.0.0.1", cpu_cores=8, memory_gb=16, port=1,
        )  # fmt: skip
        assert answer.success
        spec = await upload(served)
        node = await served.node("worker-001")
        assert node.health is Health.HEALTHY
        assert not node.registration.capabilities.programs
        assert (await served.work(spec.id)).phase is Phase.PENDING


async def test_a_worker_that_comes_up_later_gets_what_waits() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.call(
            "NodeManagerService.RegisterWorkerNode",
            node_id="worker-1", hostname="127.0.0.1", cpu_cores=8, memory_gb=8, port=worker.port,
        )  # fmt: skip
        spec = await upload(served)
        await worker.start()
        await in_phase(served, spec, Phase.RUNNING)


async def test_the_work_of_a_worker_that_died_goes_elsewhere() -> None:
    other = SimulatedNode("other")
    async with a_pool(dial_timeout_s=0.2) as served:
        worker = await served.worker()
        await served.register(worker)
        first = await upload(served)
        await in_phase(served, first, Phase.RUNNING)
        await worker.die()
        await upload(served, "task-002")  # nobody notices before it is dialled
        await served.cluster.attach(other)
        view = await served.cluster.finished(first.id, PATIENCE_S)
        assert view.phase is Phase.SUCCEEDED
        assert (await served.node()).health is Health.GONE
        assert not (await served.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_work_of_a_worker_that_died_and_was_started_again_at_once_begins_again(elsewhere: bool) -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        await worker.die()
        again = FakeWorker(port=0 if elsewhere else worker.port)
        await again.start()
        served.stack.push_async_callback(again.die)
        await served.register(again)
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        assert [request.task_id for request in again.taken] == ["task-001.arcray-2"]
        assert set(again.stopped) == {"task-001"}


@asynccontextmanager
async def restarted_gateway() -> AsyncIterator[tuple[Pool, FakeWorker, WorkloadSpec]]:
    """A pool whose gateway was started anew while a worker had a task, and has heard of nobody yet."""
    clock, worker = SystemClock(), FakeWorker()
    async with in_process_plane(nodes=[]) as cluster:
        await worker.start()
        async with a_gateway(cluster, clock) as before:
            stub = Stub(before.address, words=saying_instance("one"))
            await before.register(worker, stub=stub)
            await stub.close()
            spec = await upload(before)
            await in_phase(before, spec, Phase.RUNNING)
        async with a_gateway(cluster, clock) as after:
            yield after, worker, spec
        await worker.die()


@pytest.mark.parametrize("words", [saying_instance("two"), {}])
async def test_the_work_of_a_worker_that_was_started_again_while_its_gateway_was_begins_again(words: Words) -> None:
    async with restarted_gateway() as (served, worker, spec):
        await worker.die()
        await worker.start()
        stub = Stub(served.address, words=words)
        await served.register(worker, stub=stub)
        await in_phase(served, spec, Phase.RUNNING, attempt=2)
        assert "task-001" in worker.stopped
        await stub.close()


async def test_the_work_of_a_worker_that_goes_on_while_its_gateway_is_started_again_goes_on() -> None:
    async with restarted_gateway() as (served, worker, spec):
        assert (await served.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Busy")).success
        stub = Stub(served.address, words=saying_instance("one"))
        await served.register(worker, stub=stub)
        assert (await served.work(spec.id)).attempt == 1
        assert (
            await served.call("MasterNodeService.TaskCompleted", task_id="task-001", node_id="worker-1", success=True)
        ).success
        assert (await served.work(spec.id)).phase is Phase.SUCCEEDED
        assert worker.stopped == []
        await stub.close()


async def test_a_task_is_stopped_once_its_worker_has_said_so() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        await served.cluster.ask(StopWorkload(workload_id=spec.id))
        view = await served.cluster.finished(spec.id)
        assert view.phase is Phase.STOPPED
        assert worker.stopped == ["task-001"]


async def test_a_program_of_another_protocol_runs_on_a_worker() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = a_workload(1, Program(blob=program_key(a_workload(1).id, archive=False)))
        await served.cluster.plane.blobs.put(spec.payload.blob, CODE)  # type: ignore[union-attr]  # a program has one
        await served.cluster.ask(SubmitWorkload(spec=spec))
        await in_phase(served, spec, Phase.RUNNING)
        (request,) = worker.taken
        assert request.task_data == CODE
        output = {"task_id": request.task_id, "output": "from afar"}
        assert (await served.call("MasterNodeService.StoreOutput", **output)).success
        assert (await served.call("MasterNodeService.ReturnTaskResult", task_id=request.task_id)).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.SUCCEEDED


async def test_a_container_of_another_protocol_lands_on_a_worker_that_offers_to_run_it() -> None:
    async with a_pool() as served:
        plain, willing = await served.worker(), await served.worker()
        await served.register(plain, "plain", docker_status="enabled")
        spec = a_workload(1, a_container(args=("echo", "hello")))
        await served.cluster.ask(SubmitWorkload(spec=spec))
        assert (await served.work(spec.id)).phase is Phase.PENDING
        await served.register(willing, "willing", docker_status=OFFERS_CONTAINERS)
        await in_phase(served, spec, Phase.RUNNING)
        (request,) = willing.taken
        assert not plain.taken
        asked = asked_of(request.task_data)
        assert asked is not None
        assert asked.container == spec.payload
        ended = {"task_id": request.task_id, "node_id": "willing", "success": True}
        assert (await served.call("MasterNodeService.TaskCompleted", **ended)).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.SUCCEEDED


async def test_a_large_task_reaches_a_worker_whole() -> None:
    code = b"#" * (8 << 20)  # more than gRPC takes where nobody says so
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served, code=code)
        await in_phase(served, spec, Phase.RUNNING)
        assert worker.taken[0].task_data == code
