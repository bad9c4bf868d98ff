"""What dies comes back: the node actor, the scheduler actor, the gateway replica. Each is killed for certain."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import ray
from ray import serve

from arcray.core.errors import ConflictError
from arcray.drivers.ray_actor import NAMESPACE
from arcray.gateway.app import GatewayArgs, app
from arcray.runtime.bootstrap import APPLICATION, up
from arcray.runtime.scheduler_handle import SCHEDULER

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster


def test_a_killed_node_actor_comes_back_and_its_machine_attaches_again(cluster: Cluster) -> None:
    before = cluster.status(cluster.node_actor())
    os.kill(before["pid"], signal.SIGKILL)

    def attached() -> dict[str, Any] | None:
        now = cluster.status(cluster.node_actor())
        return now if now["epoch"] > before["epoch"] else None

    after = cluster.until(attached, "the node is attached again")
    assert after["node_id"] == before["node_id"]
    assert after["pid"] != before["pid"]
    with cluster.client() as client:
        assert client.wait(client.submit_program("print(1)").id, timeout_s=60).phase == "succeeded"


def test_a_killed_scheduler_recovers_what_it_acknowledged_and_running_work_goes_on(cluster: Cluster) -> None:
    with cluster.client() as client:
        done = client.wait(client.submit_program("print('kept')").id, timeout_s=60)
        held = client.submit_program(
            "import sys\nprint('started', flush=True)\nsys.stdin.read()\nimport time\ntime.sleep(3)"
        )
        cluster.until(lambda: client.get(held.id).phase == "running", "the program runs")
        epoch = cluster.status(cluster.node_actor())["epoch"]

        pid = cluster.status(SCHEDULER)["pid"]
        os.kill(pid, signal.SIGKILL)

        # The client tries again what the gateway cannot answer meanwhile.
        cluster.until(lambda: cluster.status(SCHEDULER)["ready"], "the scheduler serves again")
        assert client.get(done.id).phase == "succeeded"
        assert client.logs(done.id) == "kept\n"
        assert client.wait(held.id, timeout_s=60).phase == "succeeded"
        assert cluster.status(cluster.node_actor())["epoch"] == epoch  # its lease was not lost
        assert client.wait(client.submit_program("print(2)").id, timeout_s=60).phase == "succeeded"


def test_a_rolling_update_refuses_no_request_and_finishes_the_open_ones(cluster: Cluster) -> None:
    with cluster.client() as client:
        client.register_model("slow", "python", source="cluster_models:slow")
        client.wait_model("slow", timeout_s=60)
    wrong: list[str] = []
    served = threading.Event()
    over = threading.Event()

    def ask_forever() -> None:
        while not over.is_set():
            try:
                # A fresh connection each time: what an old replica refuses would show.
                status = httpx.get(f"{cluster.url}/healthz", timeout=20).status_code
                served.set()
            except httpx.HTTPError as error:
                wrong.append(repr(error))
            else:
                if status != 200:
                    wrong.append(str(status))

    def ask_slowly() -> None:
        body = {"modelId": "slow", "input": {"seconds": 2.0}, "maxLatencyMs": 20_000}
        answer = httpx.post(f"{cluster.url}/api/v1/inference", json=body, timeout=30)
        if answer.status_code != 200:
            wrong.append(answer.text)

    threads = [threading.Thread(target=ask_forever), threading.Thread(target=ask_slowly)]
    before = _replicas()
    for thread in threads:
        thread.start()
    try:
        assert served.wait(20)
        again = app(GatewayArgs(settings=cluster.settings.model_dump(mode="json")))
        serve.run(again, name=APPLICATION, route_prefix="/")
        cluster.until(lambda: before.isdisjoint(_replicas()), "the old replica is gone")
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_a_port_that_is_held_is_refused_before_anything_starts(cluster: Cluster) -> None:
    with pytest.raises(ConflictError, match=f"port {cluster.settings.gateway.http_ports[0]}"):
        up(cluster.settings, dashboard=False)
    assert httpx.get(f"{cluster.url}/healthz", timeout=20).status_code == 200


def test_the_actors_are_the_ones_that_shall_be(cluster: Cluster) -> None:
    (ray_node,) = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's
    assert cluster.actor_names() == {SCHEDULER, f"arcray-node-{ray_node['NodeID'][:12]}"}
    handle: Any = ray.get_actor(SCHEDULER, NAMESPACE)
    assert ray.get(handle.status.remote(), timeout=20)["ready"]


def _replicas() -> set[str]:
    deployment = serve.status().applications[APPLICATION].deployments["gateway"]
    assert sum(deployment.replica_states.values()) >= 1
    actors = ray.util.list_named_actors(all_namespaces=True)
    return {each["name"] for each in actors if each["name"].startswith(f"SERVE_REPLICA::{APPLICATION}#gateway")}
