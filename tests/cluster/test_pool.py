"""A device of the Resource Pool on a real cluster: one pool with its nodes, over every protocol."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster

RESOURCES = {"cpuUsage": 10, "cpuAvailable": 90, "cpuCores": 8, "memoryAvailable": 9000, "memoryTotal": 16000}


def say(socket: ClientConnection, kind: str, **values: Any) -> None:
    socket.send(json.dumps({"type": kind, **values}))


def hear(socket: ClientConnection, kind: str) -> Any:
    while (message := json.loads(socket.recv(timeout=60)))["type"] != kind:
        pass
    return message


def test_a_device_joins_lends_and_hands_in_a_task_that_the_cluster_runs(cluster: Cluster) -> None:
    address = cluster.url.replace("http", "ws")
    with connect(f"{address}/telemetry") as telemetry, connect(f"{address}/ws") as device:
        say(device, "register", deviceId="laptop", deviceName="Laptop", platform="linux")
        listed = hear(device, "devices")["devices"]
        say(device, "resource_update", deviceId="laptop", resources=RESOURCES)
        hear(device, "resource_update")
        heard = hear(telemetry, "telemetry")
        nodes = httpx.get(f"{cluster.url}/api/v1/nodes", timeout=20).json()["nodes"]
        devices = httpx.get(f"{cluster.url}/api/devices", timeout=20).json()["devices"]
        task = {"id": "t", "submitterId": "laptop", "requirements": {"cpu": 50}}
        say(device, "task_submit", task=task | {"data": {"command": "process-data", "input": "1 2 3"}})
        done = hear(device, "task_result")
        with connect(f"{address}/ws") as other:
            say(other, "resource_request", deviceId="other", requirements={"cpu": 80})
            allocation = hear(other, "resource_allocation")["allocation"]
    assert listed[0]["id"] == "laptop"
    assert heard["node"]["id"]
    assert "laptop" in {node["externalId"] for node in nodes}
    assert {node["id"] for node in nodes} >= {each["id"] for each in devices[1:]} != set()
    assert done["taskId"] == "t"
    assert json.loads(done["result"]["result"])["sum"] == 6
    assert (allocation["fulfilled"], allocation["allocatedDevices"][0]["deviceId"]) == (True, "laptop")
