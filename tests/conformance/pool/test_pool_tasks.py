"""Tasks over a real listener: run on whatever node can, by devices too. The numbers are the protocol notes' cases."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.orders import StartWorkload
from arcray.core.queries import ListReservations, ListWorkloads, ReservationPage, WorkloadPage
from arcray.core.reservation import ReservationState
from arcray.core.workload import Container, Phase, Program, WorkloadView
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.testing.builders import a_workload
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import PATIENCE_S, Client, a_client, has, registered, until

PROCESS = PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data")
PROGRAMS = {"process-data": PROCESS, "image": PoolProgram(image="busybox", args=("echo",))}
SETTINGS = PoolSettings(show_cluster_nodes=False, programs=PROGRAMS)


def a_node(script: Script | None = None, **more: Any) -> SimulatedNode:
    return SimulatedNode(script=lambda _: script or Script(log=b"processed-output\n"), **more)


def served_by(serve: Serve, *nodes: SimulatedNode, settings: PoolSettings = SETTINGS) -> Any:
    return serve(facades=("pool",), nodes=nodes, listen=True, pool=settings)


async def submit(client: Client, command: str | None = "process-data", given: Any = "...", **requirements: Any) -> Any:
    """Hands in a task; returns its result."""
    await send(client, command, given, **requirements)
    told = await client.hear("task_result")
    assert told["taskId"] == "task-uuid"
    return told["result"]


async def send(client: Client, command: str | None = "process-data", given: Any = "...", **requirements: Any) -> None:
    task = {
        "id": "task-uuid",
        "type": "compute",
        "submitterId": "S",
        "requirements": requirements,
        "data": {"command": command, "input": given},
    }
    await client.say("task_submit", task=task)


async def work_of(served: Any) -> list[WorkloadView]:
    page: WorkloadPage = await served.cluster.plane.query(ListWorkloads())
    return list(page.workloads)


def run_archive(archive: bytes, where: Path, given: str, *args: str) -> str:
    """Runs a program as a machine would, and returns what it wrote."""
    with zipfile.ZipFile(io.BytesIO(archive)) as bundle:
        bundle.extractall(where)
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import runpy,sys; sys.path.insert(0, ''); runpy.run_path('main.py')", *args],
        cwd=where,
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    return done.stdout


async def test_a_task_runs_on_a_node_and_its_output_is_the_result(serve: Serve, tmp_path: Path) -> None:
    """Case 14: something is run, and what it writes comes back."""
    node = a_node()
    async with served_by(serve, node) as served, a_client(served) as client:
        result = await submit(client, cpu=100, memory=1024, storage=1000, gpu=False)
        (work,) = await work_of(served)
        (order,) = [order for order in node.orders if isinstance(order, StartWorkload)]
        payload = work.spec.payload
        assert isinstance(payload, Program)
        code = await served.cluster.plane.blobs.get(payload.blob)
        given = await served.cluster.plane.blobs.get(payload.stdin_blob)
    assert result == {"success": True, "result": "processed-output"}
    assert (work.spec.origin.facade, work.spec.origin.external_id, work.spec.name) == (
        "pool",
        "task-uuid",
        "process-data",
    )
    assert (order.demand.cpu_milli, order.demand.memory_bytes, order.demand.disk_bytes) == (1000, 2**30, 10**9)
    assert given == b"..."
    assert '"words":2,' in run_archive(code, tmp_path, "two words")


async def test_an_image_gets_its_input_as_its_last_argument(serve: Serve) -> None:
    node = a_node()
    async with served_by(serve, node) as served, a_client(served) as client:
        result = await submit(client, "image", {"a": 1})
        (work,) = await work_of(served)
    assert result["success"] is True
    assert work.spec.payload == Container(image="busybox", args=("echo", '{"a":1}'))


async def test_a_task_that_has_no_place_is_told_at_once(serve: Serve) -> None:
    """Case 15."""
    async with served_by(serve, a_node()) as served, a_client(served) as client:
        result = await submit(client, cpu=9999)
        assert await work_of(served) == []
    assert result == {"success": False, "error": "Insufficient resources"}


async def test_a_task_has_no_place_where_no_node_can_run_it(serve: Serve) -> None:
    async with served_by(serve) as served, registered(served, "A", **has()) as client:
        assert await submit(client) == {"success": False, "error": "Insufficient resources"}


async def test_an_unknown_command_is_told(serve: Serve) -> None:
    async with served_by(serve, a_node()) as served, a_client(served) as client:
        unknown = await submit(client, "rm -rf")
        none = await submit(client, None)
    assert unknown == {"success": False, "error": "Unknown command: rm -rf"}
    assert none == {"success": False, "error": "No command given"}


async def test_a_failure_is_told_with_the_last_it_wrote(serve: Serve) -> None:
    broken = Script(end=Phase.FAILED, message="exited with 1", log=b"Traceback\nValueError: no\n")
    async with served_by(serve, a_node(broken)) as served, a_client(served) as client:
        result = await submit(client)
    assert result == {"success": False, "error": "exited with 1: ValueError: no"}


async def test_the_last_line_of_a_failure_is_told_however_much_it_wrote(serve: Serve) -> None:
    broken = Script(end=Phase.FAILED, message="exited with 1", log=b"x\n" * 20 + b"ValueError: no\n")
    short = SETTINGS.model_copy(update={"max_result_bytes": 18})
    async with served_by(serve, a_node(broken), settings=short) as served, a_client(served) as client:
        assert (await submit(client))["error"] == "exited with 1: ValueError: no"


async def test_a_task_that_takes_too_long_is_stopped_and_told(serve: Serve) -> None:
    """Takes a third of a second."""
    quick = SETTINGS.model_copy(update={"task_timeout_s": 0.3})
    async with served_by(serve, a_node(Script(end=None)), settings=quick) as served, a_client(served) as client:
        result = await submit(client)

        async def ended() -> bool:
            return (await work_of(served))[0].phase.terminal

        await until(served, ended)
    assert result["success"] is False
    assert "0.3 s" in result["error"] or "longest" in result["error"] or "long" in result["error"]


async def test_a_task_is_stopped_when_nobody_waits_for_it(serve: Serve) -> None:
    async with served_by(serve, a_node(Script(end=None))) as served:
        async with a_client(served) as client:
            await send(client)

            async def runs() -> bool:
                return [work.phase for work in await work_of(served)] == [Phase.RUNNING]

            await until(served, runs)

        async def stopped() -> bool:
            return (await work_of(served))[0].phase is Phase.STOPPED

        await until(served, stopped)


async def test_a_socket_has_as_many_tasks_as_it_may(serve: Serve) -> None:
    few = SETTINGS.model_copy(update={"max_tasks": 1})
    async with served_by(serve, a_node(Script(end=None)), settings=few) as served, a_client(served) as client:
        await send(client)
        assert await submit(client) == {"success": False, "error": "more than 1 tasks of one socket"}


async def test_a_long_output_is_cut(serve: Serve) -> None:
    short = SETTINGS.model_copy(update={"max_result_bytes": 4})
    async with served_by(serve, a_node(), settings=short) as served, a_client(served) as client:
        assert await submit(client) == {"success": True, "result": "proc"}


async def test_a_task_that_cannot_be_kept_leaves_no_place_behind(serve: Serve) -> None:
    async with served_by(serve, a_node()) as served, a_client(served) as client:
        (served.state_dir / "blobs").mkdir(exist_ok=True)
        (served.state_dir / "blobs" / "programs").write_text("a file in the way of all programs")
        assert (await submit(client))["success"] is False
        page: ReservationPage = await served.cluster.plane.query(ListReservations())
        assert [each.state for each in page.reservations] == [ReservationState.RELEASED]


async def test_a_task_that_cannot_be_read_is_told_why(serve: Serve) -> None:
    async with served_by(serve, a_node()) as served, a_client(served) as client:
        result = await submit(client, cpu="100")
    assert (result["success"], "task.requirements.cpu: must be a number" in result["error"]) == (False, True)


async def test_a_task_without_a_task_is_passed_over(serve: Serve) -> None:
    async with served_by(serve, a_node()) as served, registered(served, "A") as client:
        await client.say("task_submit")
        assert await client.quiet("A") == []


# -- devices that run -------------------------------------------------------------------------------------------------


async def joined(client: Client, device_id: str, *capabilities: str) -> None:
    await client.register(device_id, capabilities=list(capabilities))
    await client.update(device_id, **has())


async def test_a_device_that_offers_to_runs_tasks(serve: Serve, tmp_path: Path) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        await send(client, "process-data", "two words", cpu=100, memory=512)
        assigned = await runner.hear("task_assign")
        task = assigned["task"]
        archive = base64.b64decode(task["data"]["program"]["archive"])
        output = run_archive(archive, tmp_path, task["data"]["input"])
        done = {"success": True, "result": output}
        await runner.say("task_complete", deviceId="W", taskId=assigned["taskId"], result=done)
        result = (await client.hear("task_result"))["result"]
        (work,) = await work_of(served)
    assert task["id"] == assigned["taskId"]
    assert task["requirements"] == {"cpu": 100, "memory": 512, "storage": 0, "gpu": False}
    assert (task["data"]["command"], task["data"]["input"]) == ("process-data", "two words")
    assert result == {"success": True, "result": output}
    assert '"words":2,' in output
    assert work.phase is Phase.SUCCEEDED


async def test_a_device_tells_of_a_failure(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        await send(client)
        assigned = await runner.hear("task_assign")
        failed = {"success": False, "error": "out of paper"}
        await runner.say("task_complete", deviceId="W", taskId=assigned["taskId"], result=failed)
        result = (await client.hear("task_result"))["result"]
    assert result == {"success": False, "error": "out of paper"}


async def test_a_result_that_no_store_takes_is_a_failure(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        await send(client)
        assigned = await runner.hear("task_assign")
        done = {"success": True, "result": "", "files": {"../../passwd": "cm9vdA=="}}
        await runner.say("task_complete", deviceId="W", taskId=assigned["taskId"], result=done)
        result = (await client.hear("task_result"))["result"]
    assert (result["success"], result["error"].partition(":")[0]) == (False, "what it left cannot be kept")


async def test_a_task_is_kept_off_the_device_that_hands_it_in(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner:
        await joined(runner, "S", "task")
        assert await submit(runner) == {"success": False, "error": "Insufficient resources"}


async def test_a_device_without_the_capability_gets_no_tasks(serve: Serve) -> None:
    async with served_by(serve, a_node()) as served, registered(served, "A", **has()) as device:
        async with a_client(served) as client:
            assert (await submit(client))["success"] is True
        assert "task_assign" not in [message["type"] for message in await device.quiet("A")]


async def test_containers_go_to_devices_that_run_images(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        assert (await submit(client, "image"))["error"] == "Insufficient resources"
        await joined(runner, "W", "task", "container")
        await send(client, "image", "hello")
        task = (await runner.hear("task_assign"))["task"]
    container = task["data"]["container"]
    assert (container["image"], container["args"]) == ("busybox", ["echo", "hello"])


async def test_a_device_is_told_to_end_what_is_stopped(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner:
        await joined(runner, "W", "task", "container")
        spec = a_workload(1, Container(image="nginx"), created_at=served.cluster.clock.now())
        await served.cluster.ask(SubmitWorkload(spec=spec))
        assigned = await runner.hear("task_assign")
        await served.cluster.ask(StopWorkload(workload_id=spec.id))
        assert await runner.hear("task_cancel") == {"type": "task_cancel", "taskId": assigned["taskId"]}
        ended = {"success": False, "error": "as asked"}
        await runner.say("task_complete", deviceId="W", taskId=assigned["taskId"], result=ended)
        view = await served.cluster.finished(spec.id)
    assert (view.phase, view.message) == (Phase.STOPPED, "as asked")


async def test_work_of_a_device_that_leaves_goes_elsewhere(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as client:
        async with a_client(served) as runner:
            await joined(runner, "W", "task")
            await send(client)
            await runner.hear("task_assign")
        await client.hear("device_left")
        async with a_client(served) as other:
            await joined(other, "X", "task")
            assigned = await other.hear("task_assign")
            done = {"success": True, "result": "at last"}
            await other.say("task_complete", deviceId="X", taskId=assigned["taskId"], result=done)
            assert (await client.hear("task_result"))["result"] == {"success": True, "result": "at last"}


async def test_only_its_own_socket_speaks_for_a_device(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        await send(client)
        assigned = await runner.hear("task_assign")
        done = {"success": True, "result": "forged"}
        await client.say("task_complete", deviceId="W", taskId=assigned["taskId"], result=done)
        await client.quiet("nobody")
        await runner.say(
            "task_complete", deviceId="W", taskId=assigned["taskId"], result={"success": True, "result": "true"}
        )
        assert (await client.hear("task_result"))["result"]["result"] == "true"


async def test_tasks_of_one_socket_run_beside_each_other(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as runner, a_client(served) as client:
        await joined(runner, "W", "task")
        await asyncio.gather(*(send(client, given=str(number)) for number in range(3)))
        tasks = [(await runner.hear("task_assign"))["task"] for _ in range(3)]
    assert {task["data"]["input"] for task in tasks} == {"0", "1", "2"}
