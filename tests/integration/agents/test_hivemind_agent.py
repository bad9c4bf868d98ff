"""``arcray agent --protocol hivemind`` as a process of its own, and a pool that gives it work."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from arcray.core.blobkeys import foreign_log_key, log_key, program_key, result_key
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.node import Health
from arcray.core.workload import Phase, Program
from arcray.facades.hivemind import tasks
from arcray.testing.builders import a_workload
from arcray.testing.plane import in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from tests.conformance.hivemind.worker_rig import Pool, a_gateway, a_pool, in_phase, upload
from tests.hivemind_agent import NAME, PASSWORD, PATIENCE_S, an_agent, takes_work
from tests.hivemind_server import hivemind
from tests.ports import free_ports

CODE = b"""
import os, pathlib
print("hello from", os.environ["TASK_ID"], flush=True)
pathlib.Path(os.environ["ARCRAY_RESULT_DIR"], "answer.txt").write_text("42")
print("no newline at the end", end="")
"""


async def test_a_machine_runs_what_the_pool_has_and_gives_it_back(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    async with a_pool() as served, an_agent(served.address, tmp_path):
        await takes_work(served)
        blobs = served.cluster.plane.blobs
        spec = await upload(served, code=CODE)
        view = await served.cluster.finished(spec.id, PATIENCE_S)
        assert (view.phase, view.message) == (Phase.SUCCEEDED, "")
        assert await blobs.get(log_key(spec.id)) == b"hello from task-001\nno newline at the end\n"
        returned = await blobs.get(result_key(spec.id, "result_data"))
        with zipfile.ZipFile(io.BytesIO(returned)) as bundle:
            assert {name: bundle.read(name) for name in bundle.namelist()} == {"answer.txt": b"42"}

        failing = await upload(served, "task-002", b"import sys; print('bad'); sys.exit(3)")
        view = await served.cluster.finished(failing.id, PATIENCE_S)
        assert view.phase is Phase.FAILED
        assert b"3" in await blobs.get(foreign_log_key(failing.id))

        endless = await upload(served, "task-003", b"print('begun', flush=True)\nwhile True: pass")
        await in_phase(served, endless, Phase.RUNNING)
        await served.cluster.ask(StopWorkload(workload_id=endless.id))
        assert (await served.cluster.finished(endless.id, PATIENCE_S)).phase is Phase.STOPPED

        code = b"import os, sys; print(sys.argv[1], os.environ['MORE'], sys.stdin.read())\n" + CODE
        program = Program(
            blob=program_key(a_workload(1).id, archive=False),
            args=("x",),
            env=(("MORE", "y"), ("TASK_ID", "task-001")),
            stdin_blob="stdin/it",
        )
        await blobs.put(program.blob, code)
        await blobs.put(program.stdin_blob, b"z")
        of_rest = a_workload(1, program)
        await served.cluster.ask(SubmitWorkload(spec=of_rest))
        view = await served.cluster.finished(of_rest.id, PATIENCE_S)
        assert view.phase is Phase.SUCCEEDED
        assert view.result is not None
        assert view.result.blobs == (result_key(of_rest.id, "answer.txt"),)
        assert (await blobs.get(log_key(of_rest.id))).startswith(b"x y z\nhello from task-001\n")


async def test_a_machine_that_is_asked_to_end_leaves_its_work_to_others(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    other = SimulatedNode("other")
    async with a_pool() as served:
        async with an_agent(served.address, tmp_path):
            await takes_work(served)
            spec = await upload(served, code=b"while True: pass")
            await in_phase(served, spec, Phase.RUNNING)
            await served.cluster.attach(other)
        assert (await served.node(NAME)).health is Health.GONE
        view = await served.cluster.finished(spec.id, PATIENCE_S)
        assert (view.phase, view.attempt) == (Phase.SUCCEEDED, 2)
        assert tasks.status_of(view) is tasks.Status.COMPLETED


async def test_a_machine_joins_whatever_pool_comes_after_its_own(tmp_path: Path) -> None:
    """Takes ten seconds: an interpreter starts, and a machine speaks every five."""
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        async with a_cluster_at(port) as served:
            await stack.enter_async_context(an_agent(f"127.0.0.1:{port}", tmp_path))
            await takes_work(served)
            spec = await upload(served, code=b"while True: pass")
            await in_phase(served, spec, Phase.RUNNING)
        async with a_cluster_at(port) as served:  # which knows neither the machine nor what it runs
            await takes_work(served)
            spec = await upload(served, "task-002", CODE)
            assert (await served.cluster.finished(spec.id, PATIENCE_S)).phase is Phase.SUCCEEDED


async def test_a_users_machine_earns_by_the_task_of_another_user(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    (port,) = free_ports(1)
    async with hivemind(nodes=[], port=port) as pool, an_agent(f"127.0.0.1:{port}", tmp_path, user="ana"):
        bo = await pool.user("bo")
        assert (await pool.call("MasterNodeService/UploadTask", token=bo, task_id="task-001", task_data=CODE)).success
        view = await pool.cluster.finished(tasks.workload_id_of("task-001"), PATIENCE_S)
        assert view.phase is Phase.SUCCEEDED
        polled = await pool.call("MasterNodeService/PollTaskStatus", token=bo, task_id="task-001")
        assert polled.output == ["hello from task-001", "no newline at the end"]
        result = await pool.call("MasterNodeService/GetTaskResult", token=bo, task_id="task-001")
        with zipfile.ZipFile(io.BytesIO(result.result_data)) as bundle:
            assert bundle.namelist() == ["answer.txt"]
        listed = await pool.call("MasterNodeService/GetAllTasks", token=bo)
        assert listed.tasks[0].assigned_node == "ana"
        ana = await pool.call("UserService/Login", username="ana", password=PASSWORD)
        assert [await pool.balance(token) for token in (bo, ana.token)] == [99, 101]


@asynccontextmanager
async def a_cluster_at(port: int) -> AsyncIterator[Pool]:
    async with in_process_plane(nodes=[]) as cluster, a_gateway(cluster, cluster.clock, port=port) as served:
        yield served
