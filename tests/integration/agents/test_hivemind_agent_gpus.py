"""``arcray agent --protocol hivemind`` on a machine with two GPUs: of a stub of NVML, which convinces all but CUDA."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from arcray.core.blobkeys import log_key
from arcray.core.commands import StopWorkload
from arcray.core.events import Topic
from arcray.core.quantity import GIB
from arcray.core.workload import Phase, WorkloadSpec
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.testing.builders import T0
from arcray.wire.submitting import submit_work
from tests.conformance.hivemind.worker_rig import Pool, a_pool, in_phase
from tests.hivemind_agent import NAME, PATIENCE_S, an_agent, takes_work
from tests.integration.test_node_gpu_stub import build

CODE = b"""
import os, time
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(600)
"""


async def upload(served: Pool, task_id: str, **asked: Any) -> WorkloadSpec:
    request = pool.UploadTaskRequest(task_id=task_id, task_data=CODE, user_id="ana", cpu_score=1, **asked)
    made = tasks.upload_of(
        request, user=None, registered=True, call_id=task_id, now=T0, house_rate=0, unpacked_bytes=GIB
    )
    await submit_work(served.cluster.plane, made.spec, {made.code_key: made.code})
    return made.spec


async def printed(served: Pool, spec: WorkloadSpec) -> str:
    """Returns what a task has printed first; looks at it whenever its machine beats."""
    blobs, key = served.cluster.plane.blobs, log_key(spec.id)
    beats = served.cluster.plane.events(frozenset({Topic.TELEMETRY}))
    async with asyncio.timeout(PATIENCE_S):
        while not await blobs.size(key):
            await anext(beats)
    await beats.aclose()
    return (await blobs.get(key)).decode().strip()


async def test_a_machine_offers_all_of_its_gpus_and_each_task_sees_its_own(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    async with a_pool() as served, an_agent(served.address, tmp_path / "state", libraries=build(libraries)):
        await takes_work(served)
        gpus = (await served.node(NAME)).registration.capacity.gpus
        assert [(gpu.index, gpu.name, gpu.memory_bytes) for gpu in gpus] == [
            (index, "Stub GPU", 80 * GIB) for index in (0, 1)
        ]
        specs = [await upload(served, f"whole-{number}", gpu_score=1) for number in (1, 2)]
        for spec in specs:
            await in_phase(served, spec, Phase.RUNNING)
        assert sorted([await printed(served, spec) for spec in specs]) == ["GPU-a", "GPU-b"]
        without = await upload(served, "without")
        await in_phase(served, without, Phase.RUNNING)
        assert "GPU-" not in await printed(served, without)
        waits = await upload(served, "waits", gpu_memory_gb=8)
        assert (await served.work(waits.id)).phase is Phase.PENDING
        await served.cluster.ask(StopWorkload(workload_id=specs[0].id))
        await in_phase(served, waits, Phase.RUNNING)
