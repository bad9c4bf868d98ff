"""``arcray agent --protocol pool`` as a process that really runs containers, for a pool in this process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import docker
import pytest

from arcray.core.blobkeys import log_key
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.queries import GetWorkload
from arcray.core.workload import Container, Phase, RestartPolicy, RestartRule, WorkloadSpec, WorkloadView
from arcray.node.container import LABEL_NODE, LABEL_WORKLOAD
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.testing.builders import a_workload
from tests.agent_process import PATIENCE_S, an_agent
from tests.conformance.conftest import Served, serving
from tests.conformance.pool.pool_rig import a_client, nodes_of, until

pytestmark = pytest.mark.docker

OFTEN: dict[str, Any] = {
    "ARCRAY_NODE__HEARTBEAT_S": "0.2",
    "ARCRAY_POOL__DEVICE__UPDATE_S": "0.2",
}  # so that there are events


async def joined(served: Served) -> str:
    """Waits until a machine takes containers; returns its id."""
    found: list[str] = []

    async def holds() -> bool:
        for device, view in (await nodes_of(served)).items():
            if view.registration.capabilities.containers and view.registration.capacity.memory_bytes:
                found.append(device)
        return bool(found)

    await until(served, holds, patience_s=PATIENCE_S)
    return found[-1]


async def submit(served: Served, number: int, image: str, script: str, **more: Any) -> WorkloadSpec:
    """Submits a container; returns what it is."""
    container = Container(image=image, command=("sh", "-c"), args=(script,), env=(("GREETING", "é"),))
    spec = a_workload(number, container, **more)
    await served.cluster.ask(SubmitWorkload(spec=spec))
    return spec


def of(client: docker.DockerClient, spec: WorkloadSpec, **more: Any) -> list[Any]:
    found: list[Any] = client.containers.list(filters={"label": f"{LABEL_WORKLOAD}={spec.id}"}, **more)
    return found


async def test_a_machine_runs_containers_of_the_pool_and_ends_those_that_it_gave_up(
    image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Takes seconds: three interpreters start, and containers do."""
    programs = {"say": PoolProgram(image=image, args=("echo", "said"))}
    pool = PoolSettings(programs=programs)
    async with serving(facades=("pool",), nodes=[], listen=True, pool=pool) as served, a_client(served) as client:

        async def runs(spec: WorkloadSpec, attempt: int = 1) -> Any:
            """Waits until an attempt runs, in the only container that there is of it; returns that."""

            async def holds() -> bool:
                view = await served.cluster.plane.query(GetWorkload(workload_id=spec.id))
                assert isinstance(view, WorkloadView)
                found = of(docker_client, spec)
                return view.attempt == attempt and [each.id for each in found if each.id not in ended] != []

            await until(served, holds, patience_s=PATIENCE_S)
            (found,) = of(docker_client, spec)
            ended.add(found.id)
            return found

        ended = set[str]()
        url = f"ws://{served.url}/ws"
        async with an_agent("pool", url, tmp_path, containers="always", exits=-signal.SIGKILL, **OFTEN) as process:
            device = await joined(served)
            await client.say("task_submit", task={"id": "t", "data": {"command": "say", "input": "in"}})
            assert (await client.hear("task_result"))["result"] == {"success": True, "result": "said in"}
            good = await submit(served, 1, image, 'echo "$GREETING"; echo to stderr >&2')
            view = await served.cluster.finished(good.id, PATIENCE_S)
            assert (view.phase, view.node_id, view.message) == (Phase.SUCCEEDED, device, "")
            log = await served.cluster.plane.blobs.get(log_key(good.id))
            assert sorted(log.decode().splitlines()) == ["to stderr", "é"]
            bad = await submit(served, 2, image, "exit 3")
            assert (await served.cluster.finished(bad.id, PATIENCE_S)).message == "exit code 3"

            lives_on = await submit(served, 3, image, "sleep 1000", restart=RestartPolicy(rule=RestartRule.ON_LOSS))
            container = await runs(lives_on)
            assert container.labels[LABEL_NODE] == device
            assert container.attrs["HostConfig"]["Memory"] == lives_on.demand.memory_bytes
            process.kill()
            await process.wait()
        assert [each.id for each in of(docker_client, lives_on)] == [container.id]
        async with an_agent("pool", url, tmp_path, containers="always", **OFTEN):
            await runs(lives_on, attempt=2)
            await served.cluster.ask(StopWorkload(workload_id=lives_on.id))
            assert (await served.cluster.finished(lives_on.id, PATIENCE_S)).phase is Phase.STOPPED
            left = await submit(served, 4, image, "sleep 1000")
            await runs(left)
        assert not any(of(docker_client, spec, all=True) for spec in (good, bad, lives_on, left))
        assert "its socket was closed" in (await served.cluster.finished(left.id, PATIENCE_S)).message
