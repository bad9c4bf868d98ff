"""Work of REST on a Resource Pool device: the real command in a process of its own, attached to a real gateway.

That work is real is seen from outside, by the engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect

from arcray.client import WorkOptions
from arcray.core.resources import Demand
from arcray.node.container import LABEL_NODE, LABEL_WORKLOAD
from tests.agent_process import PATIENCE_S, a_machine

if TYPE_CHECKING:
    import docker

    from arcray.client import Client
    from tests.embedded_cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.docker]

NAME = "pool-device"
SMALL = Demand(cpu_milli=100, memory_bytes=64 << 20)


@contextmanager
def only(client: Client, node_id: str) -> Iterator[None]:
    """Has other nodes take no new work for the time of the block."""
    others = [node["id"] for node in client.operations.nodes() if node["id"] != node_id]
    for each in others:
        client.operations.cordon(each)
    try:
        yield
    finally:
        for each in others:
            client.operations.uncordon(each)


def test_work_of_rest_and_tasks_of_the_pool_run_on_a_device(
    docker_client: docker.DockerClient, cluster: Cluster, image: str, tmp_path: Path
) -> None:
    """Takes seconds: an interpreter starts, and a container does."""
    address = cluster.url.replace("http", "ws")
    with cluster.client() as client, a_machine("pool", f"{address}/ws", tmp_path, "--name", NAME) as process:

        def joined() -> str | None:
            found = (each for each in client.nodes() if each.name == NAME and each.status != "offline")
            return next((each.id for each in found), None)

        device = cluster.until(joined, "the machine has joined", PATIENCE_S)
        options = WorkOptions(node_id=device, demand=SMALL)
        work = client.submit_program("print(6 * 7)", options=options)
        done = client.wait(work.id, timeout_s=PATIENCE_S)
        assert (done.phase, done.node_id, client.logs(work.id)) == ("succeeded", device, "42\n"), done.message

        endless = client.submit_container(image, command=["sleep"], args=["1000"], options=options)

        def container() -> str | None:
            found = docker_client.containers.list(filters={"label": f"{LABEL_WORKLOAD}={endless.id}"})
            return found[0].labels[LABEL_NODE] if found else None

        assert cluster.until(container, "its container runs", PATIENCE_S) == device
        with only(client, device), connect(f"{address}/ws") as other:
            task = {"id": "t", "data": {"command": "process-data", "input": "1 2 3"}}
            other.send(json.dumps({"type": "task_submit", "task": task}))
            while (told := json.loads(other.recv(timeout=PATIENCE_S)))["type"] != "task_result":
                pass
        assert json.loads(told["result"]["result"])["sum"] == 6
        assert next(each.node_id for each in client.workloads() if each.name == "process-data") == device
        process.kill()
        process.wait(PATIENCE_S)
        lost = client.wait(endless.id, timeout_s=PATIENCE_S)
        assert (lost.phase, lost.message) == ("failed", "its node left: its socket was closed"), lost.message
    for left in docker_client.containers.list(filters={"label": f"{LABEL_NODE}={device}"}):
        left.remove(force=True)
