"""Devices over a real listener: registration, updates, leaving, limits. The numbers are the protocol notes' cases."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID

import httpx

from arcray.core.node import Health
from arcray.facades.pool.nodes import node_id_of
from arcray.pool_settings import PoolSettings
from arcray.testing.simulated_node import SimulatedNode
from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import ALONE, a_client, has, nodes_of, registered, until


def served_by(serve: Serve, settings: PoolSettings = ALONE, **more: Any) -> Any:
    return serve(facades=("pool",), nodes=more.pop("nodes", []), listen=True, pool=settings, **more)


async def devices_of(served: Any) -> list[Any]:
    devices: list[Any] = (await served.client.get("/api/devices")).json()["devices"]
    return devices


async def test_an_empty_server_says_so(serve: Serve) -> None:
    """Cases 1 and 2."""
    async with served_by(serve) as served:
        answer = await served.client.get("/")
        pool = (await served.client.get("/api/resources")).json()
        stats = (await served.client.get("/api/stats")).json()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.text == '{"service":"Resource Pooling Network","version":"1.0.0","devices":0,"status":"online"}'
    nothing = {
        "totalCpuAvailable": 0,
        "totalCpuCores": 0,
        "totalMemoryAvailable": 0,
        "totalStorageAvailable": 0,
        "totalGPUs": 0,
        "devices": 0,
    }
    assert pool == {"pool": nothing}
    assert stats == {"devices": 0, "resources": nothing, "uptime": 0}


async def test_who_registers_is_told_of_itself(serve: Serve) -> None:
    """Case 3."""
    async with served_by(serve) as served, a_client(served) as client:
        (device,) = await client.register("A", "Aname")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", device.pop("lastSeen"))
    resources = device.pop("resources")
    assert device == {
        "id": "A",
        "name": "Aname",
        "platform": "linux",
        "ipAddress": "127.0.0.1",
        "isOnline": True,
    }
    assert (resources.pop("cpuAvailable"), resources.pop("hasGPU"), resources.pop("gpuName")) == (100, False, None)
    assert resources.pop("gpuUsage") is None
    assert set(resources.values()) == {0}


async def test_others_are_told_who_joins_and_only_once(serve: Serve) -> None:
    """Case 4."""
    async with served_by(serve) as served, registered(served, "A") as first, a_client(served) as second:
        assert [device["id"] for device in await second.register("B")] == ["A", "B"]
        told = await first.hear()
        rest = await first.quiet("A")
        heard = await second.quiet("B")
    assert (told["type"], told["device"]["id"], told["device"]["isOnline"]) == ("device_joined", "B", True)
    assert rest == []
    assert [message["type"] for message in heard] == ["resource_update"]


async def test_what_a_device_does_not_say_of_itself_is_made_up(serve: Serve) -> None:
    """Case 5."""
    async with served_by(serve) as served, a_client(served) as client:
        await client.say("register")
        (device,) = (await client.hear("devices"))["devices"]
    assert UUID(device["id"]).version == 4
    assert (device["name"], device["platform"]) == ("Unknown Device", "unknown")


async def test_an_update_is_merged_and_told_to_all_with_its_sender(serve: Serve) -> None:
    """Case 6."""
    async with served_by(serve) as served, registered(served, "A") as first, registered(served, "B") as second:
        await first.update("A", **has(54.5))
        told = await first.update("A", cpuUsage=12)
        while (heard := await second.hear("resource_update"))["resources"]["cpuUsage"] != 12:
            pass
        (shown, _) = await devices_of(served)
    assert heard["resources"] == told == shown["resources"]
    assert told == has(54.5) | {"cpuUsage": 12}
    assert type(told["cpuCores"]) is int


async def test_who_never_registered_is_told_too(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as silent, registered(served, "A") as client:
        await client.update("A", cpuUsage=7)
        assert (await silent.hear())["type"] == "device_joined"
        assert (await silent.hear())["resources"]["cpuUsage"] == 7


async def test_an_update_of_nobody_is_told_and_listed_nowhere(serve: Serve) -> None:
    async with served_by(serve) as served, a_client(served) as client:
        assert (await client.update("ghost", cpuUsage=7))["cpuUsage"] == 7
        assert await devices_of(served) == []


async def test_the_pool_is_the_sum_of_its_devices(serve: Serve) -> None:
    """Cases 7 and 8: as soon as they have registered."""
    async with served_by(serve) as served, registered(served, "A") as first, registered(served, "B") as second:
        before = (await served.client.get("/api/resources")).json()["pool"]
        await first.update("A", **has(90, gpu=True))
        await second.update("B", **has(60))
        pool = (await served.client.get("/api/resources")).json()["pool"]
        stats = (await served.client.get("/api/stats")).json()
        status = (await served.client.get("/")).json()
    assert (before["devices"], before["totalCpuAvailable"]) == (2, 200)
    assert list(pool.values()) == [150, 16, 30000, 1800000, 1, 2]
    assert [type(value) for value in pool.values()] == [int] * 6
    assert (stats["resources"], stats["devices"], status["devices"]) == (pool, 2, 2)


async def test_who_leaves_is_told_once_and_listed_no_more(serve: Serve) -> None:
    """Case 17."""
    async with served_by(serve) as served, registered(served, "A") as client:
        async with registered(served, "B"):
            pass
        assert await client.hear("device_left") == {"type": "device_left", "deviceId": "B"}
        assert "device_left" not in [message["type"] for message in await client.quiet("A")]
        assert [device["id"] for device in await devices_of(served)] == ["A"]


async def test_all_devices_of_a_socket_leave_with_it(serve: Serve) -> None:
    """Case 18."""
    async with served_by(serve) as served, registered(served, "A") as client:
        async with registered(served, "B") as other:
            await other.register("C")
        left = {(await client.hear("device_left"))["deviceId"] for _ in range(2)}
    assert left == {"B", "C"}


async def test_a_stale_socket_takes_nothing_along(serve: Serve) -> None:
    """Case 19."""
    async with served_by(serve) as served, registered(served, "watch") as watch, a_client(served) as newer:
        async with registered(served, "A", **has(50)):
            devices = await newer.register("A", "anew")
        await newer.update("A", cpuUsage=1)
        heard = [message["type"] for message in await watch.quiet("watch")]
        shown = await devices_of(served)
    assert [(device["id"], device["name"]) for device in devices] == [("watch", "watchname"), ("A", "anew")]
    assert devices[1]["resources"]["cpuCores"] == 0  # it begins anew
    assert "device_left" not in heard
    assert [device["id"] for device in shown] == ["watch", "A"]


async def test_a_silent_device_leaves_and_comes_back(serve: Serve) -> None:
    """Cases 16 and 20; the terms are short, and nothing is said of how short. Takes a second."""
    quick = PoolSettings(show_cluster_nodes=False, heartbeat_s=0.3, sweep_s=0.05)
    async with served_by(serve, quick) as served, a_client(served) as watch, a_client(served) as client:
        await client.register("A")
        await watch.hear("device_joined")
        assert (await watch.hear("device_left"))["deviceId"] == "A"
        assert await devices_of(served) == []
        await client.say("heartbeat", deviceId="A")
        joined = await watch.hear("device_joined")
    assert (joined["device"]["id"], joined["device"]["name"]) == ("A", "Aname")


async def test_the_socket_of_a_silent_device_is_closed_where_that_is_wished(serve: Serve) -> None:
    """Takes half a second."""
    quick = PoolSettings(show_cluster_nodes=False, heartbeat_s=0.2, sweep_s=0.05, close_silent=True)
    async with served_by(serve, quick) as served, registered(served, "A") as client:
        code, reason = await client.closed()
    assert (code, "heartbeat" in reason) == (1008, True)


async def test_one_device_too_many_is_closed(serve: Serve) -> None:
    """Case 22."""
    few = PoolSettings(show_cluster_nodes=False, max_devices=2)
    async with served_by(serve, few) as served, registered(served, "A") as first, registered(served, "B"):
        async with a_client(served) as third:
            await third.say("register", deviceId="C")
            code, reason = await third.closed()
        await first.register("A")  # who is there already may register again
        assert [device["id"] for device in await devices_of(served)] == ["A", "B"]
    assert (code, "device limit" in reason) == (1008, True)


async def test_what_is_malformed_or_unknown_is_passed_over(serve: Serve) -> None:
    """Case 24."""
    async with served_by(serve) as served, registered(served, "A") as client:
        for frame in ("no json", "[]", '{"type":"authenticate"}', '{"type":"resource_request"}', b"\x00\xff"):
            await client.socket.send(frame)
        await client.socket.send(b'{"type":"heartbeat","deviceId":"A"}')
        assert await client.quiet("A") == []


async def test_a_strict_server_closes_what_is_malformed(serve: Serve) -> None:
    strict = PoolSettings(show_cluster_nodes=False, strict=True)
    async with served_by(serve, strict) as served:
        async with a_client(served) as client:
            await client.socket.send(b"\x00\xff")
            assert (await client.closed())[0] == 1003
        async with a_client(served) as client:
            for _ in range(4):
                await client.socket.send("no json")
            assert (await client.closed())[0] == 1002


async def test_a_socket_too_many_is_refused(serve: Serve) -> None:
    one = PoolSettings(show_cluster_nodes=False, max_sockets=1)
    async with served_by(serve, one) as served, registered(served, "A"):
        refused = None
        try:
            async with a_client(served):
                pass
        except Exception as error:  # noqa: BLE001 - which one says the library
            refused = error
    assert refused is not None


async def test_a_device_is_a_node_of_the_cluster(serve: Serve) -> None:
    async with served_by(serve) as served:
        async with registered(served, "A", **has(75, gpu=True)):

            async def read() -> bool:
                telemetry = (await nodes_of(served))["A"].telemetry
                return telemetry is not None and telemetry.cpu_utilization == 0.25

            await until(served, read)
            node = (await nodes_of(served))["A"]
        gone = asyncio.create_task(until(served, lambda: is_gone(served, "A")))
        await gone
    registration = node.registration
    assert (registration.id, registration.facade, registration.name) == (node_id_of("A"), "pool", "Aname")
    assert registration.capacity.cpu_milli == 8_000
    assert registration.capacity.memory_bytes == 16_000 * 2**20
    assert registration.capacity.disk_bytes == 10**12
    assert [(gpu.index, gpu.name) for gpu in registration.capacity.gpus] == [(0, "RTX")]
    assert not registration.capabilities.programs


async def is_gone(served: Any, device_id: str) -> bool:
    return (await nodes_of(served))[device_id].health is Health.GONE


async def test_a_device_appears_among_arcnets_nodes(serve: Serve) -> None:
    settings = {"facades": ("arcnet", "pool"), "nodes": [], "listen": True}
    async with serve(**settings, pool=ALONE) as served, registered(served, "A", **has(gpu=True)):
        (node,) = (await served.client.get("/api/v1/nodes")).json()["nodes"]
    assert (node["name"], node["externalId"], node["gpuCount"]) == ("Aname", "A", 1)


async def test_the_clusters_nodes_appear_behind_the_devices(serve: Serve) -> None:
    async with served_by(serve, PoolSettings(), nodes=None) as served, a_client(served) as client:
        listed = await client.register("A")
        shown = await devices_of(served)
        pool = (await served.client.get("/api/resources")).json()["pool"]
        (other,) = [view for view in (await nodes_of(served)).values() if view.registration.facade != "pool"]
    assert [device["id"] for device in listed] == [device["id"] for device in shown] == ["A", other.registration.id]
    assert shown[1]["name"] == other.registration.name
    assert shown[1]["resources"]["cpuCores"] == other.registration.capacity.cpu_milli // 1000
    assert pool["devices"] == 2


async def test_a_node_that_joins_or_leaves_is_told_of(serve: Serve) -> None:
    async with served_by(serve, PoolSettings()) as served, registered(served, "A") as client:
        node = await served.cluster.attach(SimulatedNode())
        joined = await client.hear("device_joined")
        await node.detach()
        left = await client.hear("device_left")
    assert joined["device"]["id"] == left["deviceId"] == node.id


async def test_a_limit_of_requests_holds_for_each_address(serve: Serve) -> None:
    """Case 21."""
    async with served_by(serve) as served:
        paths = ("/", "/api/devices", "/api/resources", "/api/stats")
        answers = [await served.client.get(paths[number % 4]) for number in range(101)]
        transport = httpx.ASGITransport(served.app, client=("10.0.0.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as other:
            elsewhere = await other.get("/")
    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    refused = answers[-1]
    assert refused.json()["code"] == "RATE_LIMITED"
    assert refused.json()["error"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert elsewhere.status_code == 200


async def test_errors_are_json(serve: Serve) -> None:
    """Case 23."""
    async with served_by(serve) as served:
        missing = await served.client.get("/api/task")
        wrong = await served.client.post("/api/devices")
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert missing.json()["error"]
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "INVALID_REQUEST", "GET")
