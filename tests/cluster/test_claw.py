"""Work of REST on a claw node: the real command in a process of its own, attached to a real gateway over a WebSocket.

That work is real is seen from outside: a container ends only because the test tells it to, by the engine or by a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arcray.client import Client, WorkOptions
from arcray.core.resources import Demand
from arcray.core.workload import RestartPolicy, RestartRule, VolumeMount
from arcray.node.container import LABEL_NODE, LABEL_WORKLOAD
from arcray.node.identity import hostname
from tests.claw_gateway import PATIENCE_S, a_machine

if TYPE_CHECKING:
    import docker

    from tests.embedded_cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.docker]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a machine works.

    Args:
        url: of the gateway.
        shared: what its containers may mount.
        options, settings: of its agent.
    """

    url: str
    directory: Path
    shared: Path
    options: tuple[str, ...]
    settings: dict[str, str]

    def node_id(self) -> str:
        """What the machine calls itself; "" while its agent has not begun."""
        found = [path.read_text().strip() for path in (self.directory / "node").glob(f"node-id.{hostname()}.claw")]
        return found[0] if found else ""


@pytest.fixture(params=["json", "bincode"])
def place(cluster: Cluster, image: str, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """A state directory and a shared one, for an agent of either encoding."""
    shared = tmp_path / "shared"
    shared.mkdir()
    return Place(
        url=f"{cluster.url.replace('http', 'ws')}/claw",
        directory=tmp_path / "state",
        shared=shared,
        options=("--encoding", request.param, "--name", f"claw-{request.param}"),
        settings={"ARCRAY_NODE__CONTAINERS__MOUNTS": json.dumps([str(shared)])},
    )


def joined(cluster: Cluster, client: Client, place: Place) -> str:
    """Waits until the machine takes work; returns its id."""
    name = place.options[-1]

    def found() -> str | None:
        for node in client.nodes():
            if node.name == name and node.id == place.node_id() and node.status != "offline":
                return node.id
        return None

    return cluster.until(found, "the machine has joined", PATIENCE_S)


def waits(client: Client, image: str, place: Place, node_id: str, **options: object) -> str:
    """Submits a container that ends once the file ``go`` is there; returns its id."""
    script = 'trap "exit 0" TERM; echo "$GREETING"; while [ ! -e /in/go ]; do sleep 0.1; done; cat /in/go'
    work = client.submit_container(
        image,
        command=["sh", "-c"],
        args=[script],
        env={"GREETING": "waits"},
        volumes=[VolumeMount(source=str(place.shared), target="/in", read_only=True)],
        options=WorkOptions(node_id=node_id, demand=Demand(cpu_milli=100, memory_bytes=64 << 20), **options),  # type: ignore[arg-type]
    )
    return work.id


def test_a_container_of_rest_runs_on_a_claw_node(
    docker_client: docker.DockerClient, cluster: Cluster, image: str, place: Place
) -> None:
    """Takes seconds: an interpreter starts, and containers do."""
    with cluster.client() as client, a_machine(place.url, place.directory, *place.options, **place.settings):
        node_id = joined(cluster, client, place)
        work_id = waits(client, image, place, node_id)
        cluster.until(lambda: client.logs(work_id) == "waits\n" or None, "it has begun")
        (container,) = docker_client.containers.list(filters={"label": f"{LABEL_WORKLOAD}={work_id}"})
        assert container.labels[LABEL_NODE] == node_id
        assert container.attrs["HostConfig"]["Memory"] == 64 << 20
        assert client.get(work_id).phase == "running"
        (place.shared / "go").write_text("goes\n")
        done = client.wait(work_id, timeout_s=30)
        assert (done.phase, done.node_id, done.attempt) == ("succeeded", node_id, 1), done.message
        assert client.logs(work_id) == "waits\ngoes\n"

        (place.shared / "go").unlink()
        endless = waits(client, image, place, node_id)
        cluster.until(lambda: client.logs(endless) == "waits\n" or None, "it listens for signals")
        client.stop(endless)
        assert client.wait(endless, timeout_s=60).phase == "stopped"
        restart = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=1)
        options = WorkOptions(node_id=node_id, restart=restart)
        bad = client.submit_container(image, command=["sh", "-c"], args=["echo again; exit 3"], options=options)
        done = client.wait(bad.id, timeout_s=60)
        assert (done.phase, done.attempt, done.message) == ("failed", 2, "exit code 3")
        assert client.logs(bad.id) == "again\nagain\n"


def test_a_claw_node_whose_agent_was_killed_goes_on_with_its_work(
    docker_client: docker.DockerClient, cluster: Cluster, image: str, place: Place
) -> None:
    """Takes seconds: two interpreters start, and a container does."""
    with cluster.client() as client:
        with a_machine(place.url, place.directory, *place.options, **place.settings) as process:
            node_id = joined(cluster, client, place)
            work_id = waits(client, image, place, node_id)
            cluster.until(lambda: client.get(work_id).phase == "running" or None, "it runs")
            process.kill()
            process.wait(PATIENCE_S)
        with a_machine(place.url, place.directory, *place.options, **place.settings):
            (place.shared / "go").write_text("goes\n")
            done = client.wait(work_id, timeout_s=60)
            assert (done.phase, done.node_id, done.attempt) == ("succeeded", node_id, 1), done.message
            assert client.logs(work_id).endswith("goes\n")
    assert docker_client.containers.list(all=True, filters={"label": f"{LABEL_WORKLOAD}={work_id}"}) == []
