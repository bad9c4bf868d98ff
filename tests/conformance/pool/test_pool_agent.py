"""``arcray agent --protocol pool`` as a process of its own, and a pool that gives it work over a real WebSocket."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from arcray.core.blobkeys import log_key, program_key, result_key
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.queries import GetWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Program, RestartPolicy, RestartRule, Result, WorkloadSpec, WorkloadView
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.testing.builders import a_workload
from tests.agent_process import PATIENCE_S, an_agent
from tests.conformance.conftest import Serve, Served
from tests.conformance.pool.pool_rig import a_client, nodes_of, until
from tests.integration.test_node_gpu_stub import build
from tests.ports import free_ports

PROCESS = PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data")
SETTINGS = PoolSettings(programs={"process-data": PROCESS})
ENDLESS = b"while True: pass"


@asynccontextmanager
async def a_pool(serve: Serve, port: int = 0, **settings: Any) -> AsyncIterator[Served]:
    """A pool that has no node but those that join."""
    found = SETTINGS.model_copy(update=settings)
    async with serve(facades=("pool",), nodes=[], listen=True, port=port, pool=found) as served:
        yield served


def agent(
    served: Served, state_dir: Path, name: str = "machine", **options: Any
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return an_agent("pool", f"ws://{served.url}/ws", state_dir, "--name", name, **options)


async def told(process: asyncio.subprocess.Process, what: str) -> None:
    """Waits until an agent has said something."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        async for line in process.stderr:
            if what in line.decode():
                return
    raise AssertionError(f"it has not said: {what}")


async def in_phase(served: Served, spec: WorkloadSpec, phase: Phase, attempt: int = 1) -> WorkloadView:
    """Waits until an attempt of a piece of work is in a phase; returns what it is then."""
    found: list[WorkloadView] = []

    async def holds() -> bool:
        view = await served.cluster.plane.query(GetWorkload(workload_id=spec.id))
        assert isinstance(view, WorkloadView)
        found.append(view)
        return (view.phase, view.attempt) == (phase, attempt)

    await until(served, holds, patience_s=PATIENCE_S)
    return found[-1]


async def joined(served: Served, *names: str) -> list[str]:
    """Waits until machines take work; returns their ids."""
    found: dict[str, str] = {}

    async def all_there() -> bool:
        for device, view in (await nodes_of(served)).items():
            registration = view.registration
            if registration.capabilities.programs and registration.capacity.memory_bytes:
                found[registration.name] = device
        return set(names) <= found.keys()

    await until(served, all_there, patience_s=PATIENCE_S)
    return [found[name] for name in names]


async def program(served: Served, number: int, code: bytes, **more: Any) -> WorkloadSpec:
    """Submits a program; returns what it is."""
    spec = a_workload(number)
    key = program_key(spec.id, archive=False)
    await served.cluster.plane.blobs.put(key, code)
    spec = a_workload(number, Program(blob=key), **more)
    await served.cluster.ask(SubmitWorkload(spec=spec))
    return spec


async def test_a_machine_runs_what_the_pool_has(serve: Serve, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    build(libraries)
    async with (
        a_pool(serve) as served,
        agent(served, tmp_path / "state", LD_LIBRARY_PATH=str(libraries)),
        a_client(served) as client,
    ):
        (device,) = await joined(served, "machine")
        listed = (await client.register("laptop"))[0]["resources"]
        assert (listed["hasGPU"], listed["gpuName"], listed["gpuUsage"]) == (True, "Stub GPU", 25.5)
        task = {"id": "t", "data": {"command": "process-data", "input": "3 and 4"}}
        await client.say("task_submit", task=task)
        result = (await client.hear("task_result"))["result"]
        assert result["success"], result
        assert json.loads(result["result"])["sum"] == 7
        blobs = served.cluster.plane.blobs

        code = b"import os; open(os.environ['ARCRAY_RESULT_DIR'] + '/answer', 'w').write('42'); print('x' * 10)"
        good = await program(served, 1, code)
        view = await served.cluster.finished(good.id, PATIENCE_S)
        assert (view.phase, view.node_id) == (Phase.SUCCEEDED, device)
        assert view.result == Result(exit_code=0, blobs=(result_key(good.id, "answer"),))
        assert await blobs.get(log_key(good.id)) == b"xxxxxxxxxx\n"
        assert await blobs.get(result_key(good.id, "answer")) == b"42"

        code = b"import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
        with_gpu = await program(served, 4, code, demand=Demand(cpu_milli=100, gpus=1))
        assert (await served.cluster.finished(with_gpu.id, PATIENCE_S)).phase is Phase.SUCCEEDED
        assert await blobs.get(log_key(with_gpu.id)) == b"GPU-a\n"

        bad = await program(served, 2, b"import sys; print('bad'); sys.exit(3)")
        view = await served.cluster.finished(bad.id, PATIENCE_S)
        assert (view.phase, view.message, view.result) == (Phase.FAILED, "exit code 3", Result(exit_code=3))
        assert await blobs.get(log_key(bad.id)) == b"bad\n"

        endless = await program(served, 3, b"while True: pass")
        await in_phase(served, endless, Phase.RUNNING)
        (log := tmp_path / "state/pool/logs/of-a-task").parent.mkdir(exist_ok=True)
        log.write_bytes(b"it is this agent's")
        async with agent(served, tmp_path / "state", exits=3, stderr=PIPE) as second:
            await told(second, "another agent of this node still works")
            await second.wait()
        assert log.exists()
        await served.cluster.ask(StopWorkload(workload_id=endless.id))
        assert (await served.cluster.finished(endless.id, PATIENCE_S)).phase is Phase.STOPPED


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
async def test_work_of_a_machine_that_goes_is_done_elsewhere(
    serve: Serve, tmp_path: Path, sent: signal.Signals
) -> None:
    """Takes seconds: two interpreters start, and sandboxes are tried out."""
    async with a_pool(serve) as served, agent(served, tmp_path / "going", "going", exits=None) as process:
        (going,) = await joined(served, "going")
        stays = await program(served, 1, ENDLESS)
        moves = await program(served, 2, ENDLESS, restart=RestartPolicy(rule=RestartRule.ON_LOSS))
        for spec in (stays, moves):
            await in_phase(served, spec, Phase.RUNNING)
        async with agent(served, tmp_path / "other", "other"):
            (other,) = await joined(served, "other")
            process.send_signal(sent)
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() == (0 if sent is signal.SIGTERM else -sent)
            view = await served.cluster.finished(stays.id, PATIENCE_S)
            assert (view.phase, view.node_id) == (Phase.FAILED, going)
            assert "its socket was closed" in view.message
            view = await in_phase(served, moves, Phase.RUNNING, attempt=2)
            assert view.node_id == other


async def test_a_machine_that_was_taken_for_gone_begins_what_it_had_again(serve: Serve, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a process is stopped until it is missed."""
    async with (
        a_pool(serve, heartbeat_s=1.0, sweep_s=0.1) as served,
        a_client(served) as client,
        agent(served, tmp_path, ARCRAY_POOL__DEVICE__HEARTBEAT_S="0.2") as process,
    ):
        (device,) = await joined(served, "machine")
        work = await program(served, 1, ENDLESS, restart=RestartPolicy(rule=RestartRule.ON_LOSS))
        await in_phase(served, work, Phase.RUNNING)
        process.send_signal(signal.SIGSTOP)
        assert (await client.hear("device_left"))["deviceId"] == device
        process.send_signal(signal.SIGCONT)
        await in_phase(served, work, Phase.RUNNING, attempt=2)
        quick = await program(served, 2, b"print('done')")
        assert (await served.cluster.finished(quick.id, PATIENCE_S)).phase is Phase.SUCCEEDED
        await served.cluster.ask(StopWorkload(workload_id=work.id))
        assert (await served.cluster.finished(work.id, PATIENCE_S)).phase is Phase.STOPPED


async def test_a_machine_comes_back_to_a_gateway_that_was_away(serve: Serve, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a machine waits between tries."""
    (port,) = free_ports(1)
    ids = []
    async with an_agent("pool", f"ws://127.0.0.1:{port}/ws", tmp_path, "--name", "machine"):
        for _ in range(2):
            async with a_pool(serve, port) as served:
                ids += await joined(served, "machine")
                work = await program(served, 1, b"print('done')")
                assert (await served.cluster.finished(work.id, PATIENCE_S)).phase is Phase.SUCCEEDED
                endless = await program(served, 2, b"while True: pass")
                await in_phase(served, endless, Phase.RUNNING)
    assert len(set(ids)) == 1


async def test_a_machine_that_is_refused_says_why_and_ends(serve: Serve, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts."""
    async with a_pool(serve, max_devices=1) as served, a_client(served) as first:
        await first.register("first")
        async with agent(served, tmp_path, exits=5, stderr=PIPE) as process:
            why = "the gateway refuses this machine: it closed with 1008: device limit of 1 reached"
            await told(process, why)
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()


async def test_a_machine_waits_for_a_gateway_that_is_full(serve: Serve, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a machine waits between tries."""
    async with a_pool(serve, max_sockets=1) as served, AsyncExitStack() as stack:
        async with a_client(served):
            process = await stack.enter_async_context(agent(served, tmp_path, stderr=PIPE))
            await told(process, "the gateway answers 429: this process serves as many sockets as it may")
        await joined(served, "machine")
