"""``arcray agent --protocol pool`` as a process of its own, and a pool that gives it work over a real WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from arcray.core.blobkeys import log_key, program_key
from arcray.core.commands import SubmitWorkload
from arcray.core.workload import Phase, Program, WorkloadSpec
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.testing.builders import a_workload
from tests.agent_process import PATIENCE_S, an_agent
from tests.conformance.conftest import Serve, Served
from tests.conformance.pool.pool_rig import a_client, nodes_of, until

PROCESS = PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data")
SETTINGS = PoolSettings(programs={"process-data": PROCESS})
BEGUN = b"import time; print('begun', flush=True); time.sleep(1000)"


@asynccontextmanager
async def a_pool(serve: Serve, port: int = 0) -> AsyncIterator[Served]:
    """A pool that has no node but those that join."""
    async with serve(facades=("pool",), nodes=[], listen=True, port=port, pool=SETTINGS) as served:
        yield served


def agent(served: Served, state_dir: Path, name: str = "machine", **options: Any) -> Any:
    return an_agent("pool", f"ws://{served.url}/ws", state_dir, "--name", name, **options)


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
    async with a_pool(serve) as served, agent(served, tmp_path), a_client(served) as client:
        (device,) = await joined(served, "machine")
        task = {"id": "t", "data": {"command": "process-data", "input": "3 and 4"}}
        await client.say("task_submit", task=task)
        result = (await client.hear("task_result"))["result"]
        assert result["success"], result
        assert json.loads(result["result"])["sum"] == 7
        good = await program(served, 1, b"print('x' * 10)")
        view = await served.cluster.finished(good.id, PATIENCE_S)
        assert (view.phase, view.node_id) == (Phase.SUCCEEDED, device)
        assert await served.cluster.plane.blobs.get(log_key(good.id)) == b"xxxxxxxxxx\n"
