"""Devices of two gateways are one pool; and what holds while the scheduler is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from arcray.config import Settings
from arcray.core.commands import AttachNode, Command
from arcray.core.errors import UnavailableError
from arcray.core.node import Health
from arcray.core.ports import ControlPlane
from arcray.core.queries import Query
from arcray.facades.pool.facade import FACADE
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire import problem
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds
from tests.conformance.conftest import _listening
from tests.conformance.pool.pool_rig import ALONE, a_client, has, nodes_of, registered, until


class Away:
    """The plane, which can be made to be away."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.away = False
        self.broken = False
        self.hold: asyncio.Event | None = None
        self.held = asyncio.Event()
        self.blobs = plane.blobs
        self.events = plane.events

    async def submit(self, commands: list[Command]) -> list[Any]:
        self._check()
        replies = await self._plane.submit(commands)
        if self.hold is not None and isinstance(commands[0], AttachNode):
            self.held.set()
            await self.hold.wait()  # the answer is on its way
        return replies

    async def query(self, query: Query) -> Any:
        self._check()
        return await self._plane.query(query)

    def _check(self) -> None:
        if self.away:
            raise UnavailableError
        if self.broken:
            raise RuntimeError("nobody has foreseen this")


@asynccontextmanager
async def gateway(cluster: InProcessPlane, address: str) -> AsyncIterator[Any]:
    """Serves the Resource Pool from a process of its own, as far as the cluster can tell."""
    plane: Any = Away(cluster.plane)
    events = EventHub(plane, cluster.clock)
    settings = Settings(pool=ALONE)
    context = FacadeContext(
        plane=plane,
        settings=settings,
        clock=cluster.clock,
        ids=RandomIds(),
        authenticator=Authenticator(settings.auth, plane, events, cluster.clock),
        events=events,
        attachments=Attachments(address),
    )
    endpoints = FACADE.open(context)
    app = FastAPI()
    problem.install(app)
    assert endpoints.router is not None
    assert endpoints.run is not None
    app.include_router(endpoints.router)
    tasks = [asyncio.create_task(events.run()), asyncio.create_task(endpoints.run())]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cancelled, tasks)
        url = await stack.enter_async_context(_listening(app, 0))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{url}"))
        yield SimpleNamespace(url=url, client=client, plane=plane, cluster=cluster)


async def cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def ids_at(served: Any) -> list[str]:
    return [device["id"] for device in (await served.client.get("/api/devices")).json()["devices"]]


async def test_devices_of_one_gateway_are_seen_by_the_other() -> None:
    async with (
        in_process_plane(nodes=[]) as cluster,
        gateway(cluster, "one") as one,
        gateway(cluster, "two") as two,
        registered(one, "A") as first,
    ):
        async with registered(two, "B") as second:
            assert (await first.hear("device_joined"))["device"]["id"] == "B"
            await second.update("B", **has(75))
            while (told := await first.hear("resource_update"))["resources"]["cpuUsage"] != 25:
                pass
            assert (await ids_at(one), await ids_at(two)) == (["A", "B"], ["B", "A"])
            assert (await first.request("A", cpu=75))["allocatedDevices"][0]["deviceId"] == "B"
        assert (await first.hear("device_left"))["deviceId"] == "B"
    assert told["deviceId"] == "B"
    assert told["resources"]["memoryTotal"] == 16_000


async def test_a_device_that_registers_at_another_gateway_is_there() -> None:
    async with (
        in_process_plane(nodes=[]) as cluster,
        gateway(cluster, "one") as one,
        gateway(cluster, "two") as two,
        a_client(two) as newer,
    ):
        async with registered(one, "A"):
            await newer.register("A")

            async def is_there_alone() -> bool:
                return (await nodes_of(two))["A"].registration.address == "two"

            await until(two, is_there_alone)
        await newer.update("A", **has())
        node = (await nodes_of(two))["A"]
    assert (node.health, node.registration.capacity.cpu_milli) == (Health.HEALTHY, 8000)


async def test_devices_come_and_go_while_the_scheduler_is_away_and_are_attached_when_it_is_back() -> None:
    """Takes a second, after which attaching is tried again."""
    async with in_process_plane(nodes=[]) as cluster, gateway(cluster, "one") as one, a_client(one) as watch:
        one.plane.away = True
        async with a_client(one) as client:
            assert [device["id"] for device in await client.register("A")] == ["A"]
            assert (await watch.hear("device_joined"))["device"]["id"] == "A"
            assert (await client.update("A", **has()))["cpuCores"] == 8
            assert (await client.request("B", cpu=1))["fulfilled"] is False
            refused = await one.client.get("/")
            one.plane.away = False

            async def attached() -> bool:
                found = (await nodes_of(one)).get("A")
                return found is not None and found.registration.capacity.cpu_milli == 8000

            await until(one, attached)
    assert (refused.status_code, refused.json()["code"]) == (503, "UNAVAILABLE")


async def test_the_id_of_another_node_is_refused_when_the_scheduler_is_back_and_the_node_stays() -> None:
    """Takes a second, after which attaching is tried again."""
    node = SimulatedNode()
    async with in_process_plane(nodes=[node]) as cluster, gateway(cluster, "one") as one, a_client(one) as watch:
        one.plane.away = True
        async with a_client(one) as client:
            await client.register(node.id)
            one.plane.away = False
            code, reason = await client.closed()
        assert (code, reason) == (1008, "deviceId: is the id of another node")
        assert (await watch.hear("device_left"))["deviceId"] == node.id
        (view,) = (await nodes_of(one)).values()
        assert (view.registration.id, view.health) == (node.id, Health.HEALTHY)


async def test_a_fault_of_the_server_closes_its_socket_with_1011() -> None:
    async with in_process_plane(nodes=[]) as cluster, gateway(cluster, "one") as one, a_client(one) as watch:
        async with registered(one, "A") as client:
            one.plane.broken = True
            await client.say("resource_request", deviceId="A", requirements={})
            assert await client.closed() == (1011, "internal error")
            one.plane.broken = False
        assert (await watch.hear("device_left"))["deviceId"] == "A"


async def test_a_device_that_leaves_while_it_is_being_attached_is_detached() -> None:
    async with in_process_plane(nodes=[]) as cluster, gateway(cluster, "one") as one:
        one.plane.hold = asyncio.Event()
        async with a_client(one) as client:
            await client.say("register", deviceId="A")
            await one.plane.held.wait()
        one.plane.hold.set()

        async def gone() -> bool:
            found = (await nodes_of(one)).get("A")
            return found is not None and found.health is Health.GONE

        await until(one, gone)
        assert await ids_at(one) == []
