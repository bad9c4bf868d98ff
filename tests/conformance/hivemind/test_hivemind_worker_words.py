"""What workers tell: whom the pool believes, and what it keeps."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from arcray.core.blobkeys import foreign_log_key, log_key, program_key, result_key
from arcray.core.commands import OpenLogin, SubmitWorkload
from arcray.core.ids import AccountId, EntryId
from arcray.core.node import Health
from arcray.core.queries import GetAccount
from arcray.core.workload import Phase, Program, WorkloadSpec
from arcray.facades.hivemind.task_files import TaskFiles
from arcray.testing.builders import a_workload
from arcray.testing.clock import FakeClock
from arcray.testing.simulated_node import Script, SimulatedNode
from arcray.wire.attachments import Attachments
from tests.conformance.hivemind.worker_rig import Pool, a_gateway, a_pool, in_phase, upload

MASTER = "MasterNodeService"


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Pool, WorkloadSpec]]:
    """A task that runs on the worker ``worker-1``."""
    async with a_pool(**options) as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        yield served, spec


async def test_output_and_logs_are_kept_apart_and_in_order() -> None:
    async with running() as (served, spec):
        told = {"task_id": "task-001"}
        assert (await served.call(f"{MASTER}.StoreOutput", output="one", **told)).success
        named = {"node_id": "worker-1", **told}
        assert (await served.call("WorkerNodeService.ReportOutput", output="two\n", **named)).success
        for timestamp in (1640995200, 1640995200000):
            assert (await served.call(f"{MASTER}.StoreLogs", logs="hm", timestamp=timestamp, **named)).success
        blobs = served.cluster.plane.blobs
        assert await blobs.get(log_key(spec.id)) == b"one\ntwo\n"
        assert await blobs.get(foreign_log_key(spec.id)) == b"[2022-01-01 00:00:00] [worker-1] hm\n" * 2


async def test_output_is_kept_up_to_a_limit() -> None:
    async with running() as (served, _):
        answers = [
            await served.call(f"{MASTER}.StoreOutput", task_id="task-001", output="x" * (700 << 10)) for _ in range(2)
        ]
        assert [answer.success for answer in answers] == [True, False]
        assert "no more is kept" in answers[1].message


@pytest.mark.parametrize("method", ["StoreResult", "ReturnTaskResult"])
async def test_a_result_that_is_returned_completes_its_task(method: str) -> None:
    async with running() as (served, spec):
        assert (await served.call(f"{MASTER}.{method}", task_id="task-001", result_data=b"PK any bytes")).success
        view = await served.cluster.finished(spec.id)
        assert view.phase is Phase.SUCCEEDED
        assert view.result is not None
        assert view.result.blobs == (result_key(spec.id, "result_data"),)
        assert await served.cluster.plane.blobs.get(view.result.blobs[0]) == b"PK any bytes"
        again = await served.call(f"{MASTER}.{method}", task_id="task-001", result_data=b"other")
        assert (again.success, again.message) == (True, "is COMPLETED already")
        assert await served.cluster.plane.blobs.get(view.result.blobs[0]) == b"PK any bytes"
        ended = {"task_id": "task-001", "node_id": "worker-1", "success": False}
        assert (await served.call(f"{MASTER}.TaskCompleted", **ended)).message == "is COMPLETED already"
        assert (await served.work(spec.id)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("succeeded", [True, False])
async def test_a_result_that_trails_the_end_of_its_task_is_given_out(succeeded: bool) -> None:
    async with running() as (served, spec):
        ended = {"task_id": "task-001", "node_id": "worker-1", "success": succeeded}
        assert (await served.call(f"{MASTER}.TaskCompleted", **ended)).success
        phase = Phase.SUCCEEDED if succeeded else Phase.FAILED
        for data in (b"first", b"other"):
            assert (await served.call(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=data)).success
        view = await served.work(spec.id)
        assert view.phase is phase
        assert await TaskFiles(served.cluster.plane, served.clock).result(view) == b"first"


async def test_a_result_that_comes_a_minute_after_the_end_of_its_task_is_refused() -> None:
    async with running() as (served, spec):
        ended = {"task_id": "task-001", "node_id": "worker-1", "success": True}
        assert (await served.call(f"{MASTER}.TaskCompleted", **ended)).success
        later = FakeClock(served.clock.now() + timedelta(seconds=61))
        async with a_gateway(served.cluster, later) as other:
            answer = await other.call(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=b"late")
        assert (answer.success, answer.message) == (False, "task_id: is COMPLETED already")
        assert await served.cluster.plane.blobs.size(result_key(spec.id, "result_data")) is None


async def test_a_task_that_its_worker_says_failed_has_failed() -> None:
    async with running() as (served, spec):
        ended = {"task_id": "task-001", "node_id": "worker-1", "success": False}
        assert (await served.call(f"{MASTER}.TaskCompleted", **ended)).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.FAILED
        late = await served.call(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=b"")
        assert (late.success, late.message) == (False, "task_id: is FAILED already")


async def test_the_files_of_other_work_are_its_results() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        bundle.writestr("model/weights.bin", b"w")
        bundle.writestr("log.txt", b"l")
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = a_workload(1, Program(blob=program_key(a_workload(1).id, archive=False)))
        await served.cluster.plane.blobs.put(program_key(spec.id, archive=False), b"1")
        await served.cluster.ask(SubmitWorkload(spec=spec))
        await in_phase(served, spec, Phase.RUNNING)
        returned = {"task_id": f"arcray-{spec.id}", "result_data": written.getvalue()}
        assert (await served.call(f"{MASTER}.ReturnTaskResult", **returned)).success
        view = await served.cluster.finished(spec.id)
        assert view.result is not None
        assert view.result.blobs == tuple(
            sorted(result_key(spec.id, path) for path in ("log.txt", "model/weights.bin"))
        )


async def test_nobody_speaks_of_work_that_no_worker_has() -> None:
    elsewhere = SimulatedNode("other", script=lambda _: Script(end=None))
    async with a_pool(nodes=[elsewhere]) as served:
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        for method, fields in (
            ("StoreOutput", {"output": "lies"}),
            ("StoreLogs", {"node_id": "worker-1", "logs": "lies"}),
            ("StoreResult", {"result_data": b"lies"}),
            ("ReturnTaskResult", {"result_data": b"lies"}),
            ("TaskCompleted", {"node_id": "worker-1", "success": True}),
        ):
            answer = await served.call(f"{MASTER}.{method}", task_id="task-001", **fields)
            assert (answer.success, answer.message) == (False, "task_id: no such task on that worker")
        assert (await served.work(spec.id)).phase is Phase.RUNNING


async def test_a_worker_speaks_of_its_own_work_alone() -> None:
    async with running() as (served, spec):
        ended = {"task_id": "task-001", "node_id": "worker-2", "success": True}
        assert not (await served.call(f"{MASTER}.TaskCompleted", **ended)).success
        under_another_name = {"task_id": f"arcray-{spec.id}", "node_id": "worker-1", "success": True}
        assert not (await served.call(f"{MASTER}.TaskCompleted", **under_another_name)).success
        assert (await served.work(spec.id)).phase is Phase.RUNNING


async def test_a_token_has_to_be_of_whoever_registered_the_worker() -> None:
    fields: dict[str, Any] = {"node_id": "worker-1", "hostname": "127.0.0.1", "cpu_cores": 8, "port": 1}
    async with a_pool(strict=True) as served, AsyncExitStack() as stack:
        ana = await stack.enter_async_context(served.speaking_as("ana"))
        bo = await stack.enter_async_context(served.speaking_as("bo"))
        register = "NodeManagerService.RegisterWorkerNode"
        assert (await ana(register, **fields)).success
        refused = await bo(register, **fields)
        assert (refused.success, refused.message) == (False, "node_id: is another user's worker")
        assert not (await bo("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success
        assert (await ana("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success


async def test_a_name_that_is_a_users_is_registered_by_nobody_else() -> None:
    async with a_pool() as served, served.speaking_as("bo") as bo:
        await served.cluster.ask(
            OpenLogin(account_id=AccountId("ana"), secret="s", entry_id=EntryId("e"), credits=1, memo="")
        )
        fields: dict[str, Any] = {"node_id": "ana", "hostname": "127.0.0.1", "cpu_cores": 8, "port": 1}
        refused = await bo("NodeManagerService.RegisterWorkerNode", **fields)
        assert (refused.success, refused.message) == (False, "node_id: is another user's name")
        assert (await served.call("NodeManagerService.RegisterWorkerNode", **fields)).success
        assert (await served.node("ana")).registration.owner == "ana"


async def test_a_worker_that_its_user_registered_is_moved_by_nobody_in_particular() -> None:
    async with a_pool() as served, served.speaking_as("ana") as ana:
        await served.cluster.ask(
            OpenLogin(account_id=AccountId("ana"), secret="s", entry_id=EntryId("e"), credits=1, memo="")
        )
        for name in ("ana", "anas-second"):
            fields: dict[str, Any] = {"node_id": name, "hostname": "127.0.0.1", "cpu_cores": 8, "port": 1}
            assert (await ana("NodeManagerService.RegisterWorkerNode", **fields)).success
            moved = fields | {"hostname": "127.0.0.2"}
            refused = await served.call("NodeManagerService.RegisterWorkerNode", **moved)
            assert (refused.success, refused.message.partition(";")[0]) == (False, "node_id: is a user's worker")
            assert (await served.node(name)).registration.hostname == "127.0.0.1"


async def test_who_bears_a_name_may_register_it_whoever_did_before() -> None:
    fields: dict[str, Any] = {"node_id": "ana", "hostname": "127.0.0.1", "cpu_cores": 8, "port": 1}
    async with a_pool(strict=True) as served, AsyncExitStack() as stack:
        ana = await stack.enter_async_context(served.speaking_as("ana"))
        bo = await stack.enter_async_context(served.speaking_as("bo"))
        assert (await bo("NodeManagerService.RegisterWorkerNode", **fields)).success
        await served.cluster.ask(
            OpenLogin(account_id=AccountId("ana"), secret="s", entry_id=EntryId("e"), credits=1, memo="")
        )
        assert (await ana("NodeManagerService.RegisterWorkerNode", **fields)).success
        assert (await served.node("ana")).registration.owner == "ana"
        assert not (await bo("NodeManagerService.RegisterWorkerNode", **fields)).success


async def test_the_documents_reading_is_taken_for_a_task_that_runs_anywhere() -> None:
    async with running() as (served, _):
        reading = {"cpu_usage": 75, "memory_usage": 60, "gpu_usage": 85, "gpu_memory_usage": 70}
        for task_id in ("task-001", "task-of-nobody"):
            answer = await served.call(
                "WorkerNodeService.ReportRunningStatus", node_id="worker-1", task_id=task_id, **reading
            )
            assert (answer.success, answer.cpt_reward) == (True, 0)
        unknown = await served.call("WorkerNodeService.ReportRunningStatus", node_id="nobody", task_id="t", **reading)
        assert not unknown.success


async def test_the_owner_of_a_worker_is_paid_for_what_runs_there() -> None:
    bo, ana = AccountId("bo"), AccountId("ana")
    async with a_pool() as served:
        ask = served.cluster.ask
        await ask(OpenLogin(account_id=ana, secret="s", entry_id=EntryId("e"), credits=1, memo=""))
        await ask(OpenLogin(account_id=bo, secret="s", entry_id=EntryId("f"), credits=100, memo=""))
        await served.register(await served.worker(), "ana")
        spec = await upload(served, user="bo")
        await in_phase(served, spec, Phase.RUNNING)
        reading = {"node_id": "ana", "task_id": "task-001"}
        assert (await served.call("WorkerNodeService.ReportRunningStatus", **reading)).cpt_reward >= 0
        assert (await served.call(f"{MASTER}.ReturnTaskResult", task_id="task-001", result_data=b"r")).success
        await served.cluster.finished(spec.id)
        balances: list[Any] = [await served.cluster.plane.query(GetAccount(account_id=each)) for each in (ana, bo)]
        assert [each.available for each in balances] == [2, 99]


async def test_a_heartbeat_of_a_stranger_is_refused() -> None:
    async with a_pool() as served:
        answer = await served.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")
        assert (answer.success, answer.message) == (False, "node_id: no such node; it has to register")


async def test_a_worker_that_says_that_it_is_offline_leaves_at_once() -> None:
    async with running() as (served, spec):
        await served.cluster.attach(SimulatedNode("other"))
        assert (await served.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Offline")).success
        assert (await served.node()).health is Health.GONE
        view = await served.cluster.finished(spec.id)
        assert (view.phase, view.attempt) == (Phase.SUCCEEDED, 2)
        assert not (await served.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success


async def test_registering_again_keeps_what_runs() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        again = await served.call(
            "NodeManagerService.RegisterWorkerNode", node_id="worker-1", hostname="127.0.0.1", cpu_cores=8,
            memory_gb=8, port=worker.port,
        )  # fmt: skip
        assert again.success
        assert (await served.node()).registration.capabilities.programs
        view = await served.work(spec.id)
        assert (view.phase, view.attempt) == (Phase.RUNNING, 1)


async def test_the_pool_refuses_to_be_a_worker_and_says_where_tasks_go() -> None:
    async with a_pool() as served:
        answer = await served.call("WorkerNodeService.ExecuteTask", task_id="t", task_data=b"1")
        assert not answer.success
        assert "UploadTask" in answer.message


async def test_stopping_at_the_pool_ends_a_task_wherever_it_runs() -> None:
    async with running() as (served, spec):
        assert (await served.call("WorkerNodeService.StopTaskExecution", task_id="task-001")).success
        assert (await served.cluster.finished(spec.id)).phase is Phase.STOPPED
        assert not (await served.call("WorkerNodeService.StopTaskExecution", task_id="task-001")).success
        assert not (await served.call("WorkerNodeService.StopTaskExecution", task_id="nobody")).success


async def test_a_gateway_that_starts_anew_goes_on_with_its_workers() -> None:
    async with a_pool() as served:
        worker = await served.worker()
        await served.register(worker)
        spec = await upload(served)
        await in_phase(served, spec, Phase.RUNNING)
        async with a_gateway(served.cluster, served.clock) as second:
            epoch = (await served.node()).epoch
            assert (await second.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success
            assert (await served.node()).epoch == epoch + 1
            other = await upload(second, "task-002")
            await in_phase(second, other, Phase.RUNNING)
            assert (await served.work(spec.id)).attempt == 1


async def test_a_worker_is_left_to_the_process_that_holds_it() -> None:
    async with (
        running() as (served, _),
        a_gateway(served.cluster, served.clock, attachments=Attachments("gateway.2")) as second,
    ):
        before = await served.node()
        assert (await second.call("NodeManagerService.ReportStatus", node_id="worker-1", status="Idle")).success
        assert (await served.node()).epoch == before.epoch
        assert len(second.links) == 0
