"""One request goes the whole path: HTTP, gateway, scheduler actor, node actor, process, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.sync.client import connect

from arcray.client import WorkOptions
from arcray.core.resources import Demand

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster


def test_a_program_runs_on_the_node_actor_and_its_log_is_read(cluster: Cluster) -> None:
    source = "import os, sys\nprint('pid', os.getpid(), 'of', sys.argv[1])\n"
    with cluster.client() as client:
        done = client.wait(client.submit_program(source, args=("arcray",)).id, timeout_s=60)
        log = client.logs(done.id)
        nodes = client.nodes()
    assert done.phase == "succeeded"
    assert done.node_id == cluster.status(cluster.node_actor())["node_id"]
    assert log.endswith("of arcray\n")
    assert done.node_id in {node.id for node in nodes}


def test_a_result_file_comes_back_through_the_blob_store(cluster: Cluster) -> None:
    source = (
        "import os, pathlib\npathlib.Path(os.environ['ARCRAY_RESULT_DIR'], 'big.bin').write_bytes(b'x' * 3_000_000)"
    )
    with cluster.client() as client:
        done = client.wait(client.submit_program(source).id, timeout_s=60)
        assert client.result(done.id, "big.bin") == b"x" * 3_000_000


def test_a_model_is_loaded_and_answers_over_http_while_a_websocket_listens(cluster: Cluster) -> None:
    with cluster.client() as client, connect(cluster.url.replace("http", "ws") + "/telemetry") as telemetry:
        client.register_model("echo", "python", source="cluster_models:echo")
        client.wait_model("echo", timeout_s=60)
        answer = httpx.post(
            f"{cluster.url}/api/v1/inference",
            json={"modelId": "echo", "input": {"x": [1, 2]}, "requestId": "heard-of"},
            timeout=30,
        ).json()
        assert answer["status"] == "completed"
        assert answer["output"] == {"x": [1, 2]}
        assert answer["targetNodeId"] == cluster.status(cluster.node_actor())["node_id"]
        while True:
            frame = json.loads(telemetry.recv(timeout=20))
            if frame["type"] == "inference" and frame["requestId"] == "heard-of" and frame["status"] == "completed":
                break


def test_a_node_offers_what_its_ray_node_declared(cluster: Cluster) -> None:
    with cluster.client() as client:
        stuck = client.submit_program("pass", options=WorkOptions(demand=Demand(cpu_milli=3000)))
        explained = client.explain(stuck.id)
        client.stop(stuck.id)
    assert "cpu" in json.dumps(explained)


def test_serves_own_port_and_every_listener_answer_by_the_same_application(cluster: Cluster) -> None:
    gateway = cluster.settings.gateway
    answers = [
        httpx.get(f"http://127.0.0.1:{port}/version", timeout=20).json()
        for port in (*gateway.http_ports, gateway.serve_port)
    ]
    assert answers[0]["facades"] == ["arcnet", "claw", "hivemind", "pool", "rest"]
    assert answers == [answers[0]] * 3
