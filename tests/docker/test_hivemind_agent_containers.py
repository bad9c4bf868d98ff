"""Containers of another protocol on HiveMind workers, with a real engine: by our agent, and by any other worker."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from arcray.core.blobkeys import log_key
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.orders import StartWorkload
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Phase
from arcray.facades.hivemind.orders import execution_of
from arcray.testing.builders import a_container, a_workload
from tests.conformance.hivemind.worker_rig import a_pool, in_phase
from tests.hivemind_agent import PATIENCE_S, an_agent, takes_work


async def test_a_machine_runs_a_container_that_its_pool_has(image: str, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and containers do."""
    async with a_pool() as served, an_agent(served.address, tmp_path, containers="always"):
        await takes_work(served)
        greeting = a_container(image=image, command=("echo",), args=("hello from a container",))
        spec = a_workload(1, greeting)
        await served.cluster.ask(SubmitWorkload(spec=spec))
        view = await served.cluster.finished(spec.id, PATIENCE_S)
        assert (view.phase, view.message) == (Phase.SUCCEEDED, "")
        assert await served.cluster.plane.blobs.get(log_key(spec.id)) == b"hello from a container\n"

        endless = a_workload(2, a_container(image=image, command=("sleep",), args=("1000",)))
        await served.cluster.ask(SubmitWorkload(spec=endless))
        await in_phase(served, endless, Phase.RUNNING)
        await served.cluster.ask(StopWorkload(workload_id=endless.id))
        assert (await served.cluster.finished(endless.id, PATIENCE_S)).phase is Phase.STOPPED


def test_any_worker_runs_it_by_dockers_command_line(image: str, tmp_path: Path) -> None:
    """Takes a second: a container starts."""
    order = StartWorkload(
        workload_id=a_workload(3).id,
        attempt=1,
        payload=a_container(
            image=image, command=("sh", "-c"), args=("echo $GREETING; exit 3",), env=(("GREETING", "hi"),)
        ),
        demand=Demand(cpu_milli=500, memory_bytes=GIB // 8),
        allocation=Allocation(),
        owner="ana",
    )
    with zipfile.ZipFile(io.BytesIO(execution_of(order, b"").task_data)) as bundle:
        bundle.extractall(tmp_path)
    told = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (told.returncode, told.stdout) == (3, b"hi\n"), told.stderr
