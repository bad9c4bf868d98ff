"""Every list of nodes, whatever protocol it belongs to, has machines of every kind: there is one pool."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.sync.client import connect

from examples.hivemind.pool import Pool
from tests.matrix.stage import Stage

pytestmark = pytest.mark.cluster


def test_every_list_of_nodes_has_machines_of_every_kind(stage: Stage) -> None:
    url = stage.cluster.url
    wanted = {machine.node_id for machine in stage.machines.values()}
    listed = {node.id: node for node in stage.client.nodes()}
    assert wanted <= listed.keys()
    assert {listed[node_id].status for node_id in wanted} <= {"online", "idle", "busy"}
    states = {state["id"]: state["health"] for state in stage.client.operations.nodes()}
    assert {states[node_id] for node_id in wanted} == {"healthy"}
    with connect(url.replace("http", "ws") + "/telemetry") as telemetry:
        heard: set[str] = set()
        while not wanted <= heard:
            frame = json.loads(telemetry.recv(timeout=20))
            if frame["type"] == "telemetry":
                heard.add(frame["node"]["id"])
    with Pool(f"127.0.0.1:{stage.cluster.settings.gateway.grpc_port}") as pool:  # which lists its own, unless it is set
        assert "matrix-hivemind" in {node.node_id for node in pool.call("NodeManagerService", "GetNodeList").nodes}
        assert pool.health("matrix-hivemind") == "healthy"
    devices = {device["id"] for device in httpx.get(f"{url}/api/devices", timeout=20).json()["devices"]}
    own = listed[stage.machines["pool"].node_id].raw["externalId"]
    assert wanted - {stage.machines["pool"].node_id} | {own} <= devices
