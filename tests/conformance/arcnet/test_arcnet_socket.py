"""The telemetry WebSocket over a real listener. Numbers are the conformance cases of the protocol notes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Origin

from arcray.core.commands import ReportTelemetry, SetNodeScheduling
from arcray.core.node import EnergySource, Location, Telemetry
from arcray.testing.simulated_node import SimulatedNode

ECHO = {"echo": lambda value: value, "broken": lambda _: 1 / 0}


def a_fleet() -> list[SimulatedNode]:
    return [
        SimulatedNode("west", models=ECHO, location=Location(geohash="9q9hvu")),
        SimulatedNode("texas", location=Location(geohash="9v6kn8")),
    ]


async def frame(console: ClientConnection, *types: str) -> dict[str, Any]:
    """Returns the next frame of these types, skipping others; of any type when none is named."""
    async with asyncio.timeout(5):
        while True:
            found: dict[str, Any] = json.loads(await console.recv())
            if not types or found["type"] in types:
                return found


async def told(served: Any, node: SimulatedNode, load: float, **fields: Any) -> None:
    telemetry = Telemetry(at=served.cluster.clock.now(), cpu_utilization=load, **fields)
    await served.cluster.ask(ReportTelemetry(node_id=node.id, epoch=node.epoch, telemetry=telemetry))


async def pong(console: ClientConnection) -> None:
    """Comes back once everything sent before has been understood."""
    await console.send('{"type":"ping"}')
    await frame(console, "pong")


async def test_case_1_open_mode_takes_everyone(serve: Any) -> None:
    async with serve(nodes=a_fleet(), listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        assert (await frame(console))["type"] == "telemetry"


@pytest.mark.parametrize("query", ["", "?apiKey=wrong"])
async def test_case_1_keys_mode_answers_401_without_the_right_key(serve: Any, query: str) -> None:
    auth = {"mode": "keys", "keys": {"console": "right"}}
    async with serve(nodes=[], listen=True, auth=auth) as served:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://{served.url}/telemetry{query}")
        response = refusal.value.response
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert json.loads(response.body or b"")["code"] == "UNAUTHENTICATED"
        async with connect(f"ws://{served.url}/telemetry?apiKey=right") as console:
            await pong(console)


async def test_socket_whose_key_is_revoked_is_closed(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"root": "right"}, "scopes": {"root": "admin"}}
    root = {"Authorization": "Bearer right"}
    async with serve(nodes=a_fleet(), listen=True, auth=auth) as served:
        await served.client.post("/api/v1/accounts", json={"id": "ana"}, headers=root)
        key = (await served.client.post("/api/v1/keys", json={"account": "ana", "scope": "read"}, headers=root)).json()
        async with connect(f"ws://{served.url}/telemetry?apiKey={key['key']}") as console:
            await pong(console)
            assert (await served.client.delete(f"/api/v1/keys/{key['id']}", headers=root)).status_code == 204
            with pytest.raises(ConnectionClosedError) as closed:
                await frame(console, "none")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008


async def test_socket_of_a_strangers_page_is_denied(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://{served.url}/telemetry", origin=Origin("http://evil.example"))
        assert refusal.value.response.status_code == 403


async def test_snapshot_of_all_nodes_follows_every_connect(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes, listen=True) as served:
        for _ in range(20):  # the console of the first implementation reconnects after almost every message
            async with connect(f"ws://{served.url}/telemetry") as console:
                found = [await frame(console) for _ in nodes]
                assert [entry["node"]["id"] for entry in found] == [node.id for node in nodes]
                assert found[0]["node"]["modelsLoaded"] == ["broken", "echo"]


async def test_case_5_subscription_filters_telemetry_and_nothing_else(serve: Any) -> None:
    nodes = west, texas = a_fleet()
    async with serve(nodes=nodes, listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        await console.send('{"type":"subscribe","geozones":["CAISO"]}')
        await pong(console)
        await told(served, texas, 0.5)
        await told(served, west, 0.25)
        assert (await frame(console))["node"]["gpuUtilization"] == 0.25
        await served.cluster.ask(SetNodeScheduling(node_id=texas.id, cordoned=True))
        notice = await frame(console)
        assert (notice["type"], notice["nodeId"]) == ("system", texas.id)
        await served.client.post("/api/v1/inference", json={"modelId": "echo"})
        assert (await frame(console))["type"] == "inference"
        await console.send('{"type":"subscribe","geozones":[]}')
        await pong(console)
        await told(served, texas, 0.75)
        assert (await frame(console, "telemetry"))["node"]["gpuUtilization"] == 0.75


async def test_case_7_malformed_and_unknown_frames_leave_the_connection_open(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        for text in ("{", "[]", '{"type":"unknown"}', '{"type":"subscribe"}', b"\x00\x01"):
            await console.send(text)
        await pong(console)


async def test_frame_over_64_kib_closes_with_1009(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        await console.send("x" * 65_537)
        with pytest.raises(ConnectionClosedError) as closed:
            await frame(console)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_case_19_request_is_told_until_its_end(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes, listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        await pong(console)
        body = {"modelId": "echo", "requestId": "r-1", "source": [-122.4, 37.7], "priority": "critical"}
        answer = (await served.client.post("/api/v1/inference", json=body)).json()
        found = [await frame(console, "inference") for _ in range(3)]
        assert [entry["status"] for entry in found] == ["dispatched", "processing", "completed"]
        for entry in found:
            assert (entry["requestId"], entry["source"], entry["priority"]) == ("r-1", [-122.4, 37.7], "critical")
            assert entry["targetNodeId"] == nodes[0].id
        assert [("latencyMs" in entry) for entry in found] == [False, False, True]
        assert found[2]["latencyMs"] == answer["latencyMs"]
        await served.client.post("/api/v1/inference", json={"modelId": "broken"})
        failed = [await frame(console, "inference") for _ in range(3)][2]
        assert failed["status"] == "failed"
        assert "latencyMs" not in failed


async def test_rejected_request_is_told_without_a_target(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        await pong(console)
        await served.client.post("/api/v1/inference", json={"modelId": "none", "requesterGeozone": "ERCOT"})
        found = await frame(console, "inference")
        assert (found["status"], found["targetNodeId"], found["source"]) == ("rejected", "", [-97.7, 30.3])


async def test_fate_of_nodes_is_told(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, connect(f"ws://{served.url}/telemetry") as console:
        await pong(console)
        node = await served.cluster.attach(SimulatedNode("late"))
        joined = await frame(console, "system")
        assert (joined["severity"], joined["message"], joined["nodeId"]) == ("success", "Node late joined", node.id)
        await told(served, node, 0.1, energy_source=EnergySource.BATTERY, battery_level=0.15)
        low = await frame(console, "system")
        assert (low["severity"], low["details"]) == ("warn", {"batteryLevel": 0.15, "energySource": "battery"})
        await node.detach("maintenance")
        left = await frame(console, "system")
        assert (left["severity"], left["details"]) == ("info", {"reason": "maintenance"})


async def test_many_consoles_read_the_same_feed(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes, listen=True) as served:
        consoles = [await connect(f"ws://{served.url}/telemetry") for _ in range(25)]
        for console in consoles:
            await pong(console)
        await told(served, nodes[0], 0.625)
        seen = await asyncio.gather(*(frame(console, "telemetry") for console in consoles))
        assert {entry["node"]["gpuUtilization"] for entry in seen} == {0.625}
        await asyncio.gather(*(console.close() for console in consoles))
