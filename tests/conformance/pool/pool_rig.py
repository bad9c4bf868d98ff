"""A client of the Resource Pool that does what a test says: a real WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect

from arcray.core.events import Topic
from arcray.core.node import NodeView
from arcray.core.queries import ListNodes, NodePage
from arcray.pool_settings import PoolSettings

__all__ = ["ALONE", "PATIENCE_S", "Client", "a_client", "has", "nodes_of", "registered", "until"]

PATIENCE_S: Final = 10.0
ALONE: Final = PoolSettings(show_cluster_nodes=False)


class Client:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, kind: str, **values: Any) -> None:
        """Sends a message."""
        await self.socket.send(json.dumps({"type": kind, **values}))

    async def hear(self, *kinds: str) -> Any:
        """Returns the next message, of one of these types where some are named; others are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = json.loads(await self.socket.recv())
                if not kinds or message["type"] in kinds:
                    return message

    async def register(self, device_id: str, name: str = "", platform: str = "linux", **more: Any) -> list[Any]:
        """Registers; returns the devices that the answer lists."""
        await self.say("register", deviceId=device_id, deviceName=name or f"{device_id}name", platform=platform, **more)
        devices: list[Any] = (await self.hear("devices"))["devices"]
        return devices

    async def update(self, device_id: str, **resources: Any) -> Any:
        """Tells what a device has; returns what everybody is told of it."""
        await self.say("resource_update", deviceId=device_id, resources=resources)
        while True:
            told = await self.hear("resource_update")
            if told["deviceId"] == device_id:
                return told["resources"]

    async def request(self, device_id: str, **requirements: Any) -> Any:
        """Asks for an allocation; returns it."""
        await self.say("resource_request", deviceId=device_id, requirements=requirements)
        return (await self.hear("resource_allocation"))["allocation"]

    async def quiet(self, device_id: str) -> list[Any]:
        """Returns what it was told before the answer to an update of its own, by which all earlier frames are here."""
        await self.say("resource_update", deviceId=device_id, resources={})
        found: list[Any] = []
        while True:
            message = await self.hear()
            if message["type"] == "resource_update" and message["deviceId"] == device_id:
                return found
            found.append(message)

    async def closed(self) -> tuple[int, str]:
        """Waits for the end of the connection; returns code and reason."""
        async with asyncio.timeout(PATIENCE_S):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


@asynccontextmanager
async def a_client(served: Any, **options: Any) -> AsyncIterator[Client]:
    """Connects a client for the time of the block."""
    async with connect(f"ws://{served.url}/ws", max_size=1 << 24, **options) as socket:
        yield Client(socket)


@asynccontextmanager
async def registered(served: Any, device_id: str, **resources: Any) -> AsyncIterator[Client]:
    """Connects a device that has something."""
    async with a_client(served) as client:
        await client.register(device_id)
        if resources:
            await client.update(device_id, **resources)
        yield client


def has(cpu: float = 100, *, cores: int = 8, memory: int = 16_000, storage: int = 1_000_000, gpu: bool = False) -> Any:
    """Returns resources of which most is free, as a device tells them."""
    return {
        "cpuUsage": 100 - cpu,
        "cpuAvailable": cpu,
        "cpuCores": cores,
        "memoryUsage": 1_000,
        "memoryAvailable": memory - 1_000,
        "memoryTotal": memory,
        "storageUsage": 100_000,
        "storageAvailable": storage - 100_000,
        "storageTotal": storage,
        "hasGPU": gpu,
        "gpuName": "RTX" if gpu else None,
        "gpuUsage": 0 if gpu else None,
    }


async def nodes_of(served: Any) -> dict[str, NodeView]:
    """Returns the cluster's nodes by their wire ids."""
    page: NodePage = await served.cluster.plane.query(ListNodes(limit=1000))
    return {view.registration.external_id: view for view in page.nodes}


async def until(served: Any, holds: Callable[[], Awaitable[bool]], *, patience_s: float = PATIENCE_S) -> None:
    """Waits until something holds that the cluster's events lead to."""
    topics = frozenset({Topic.WORKLOADS, Topic.NODES, Topic.TELEMETRY, Topic.RESERVATIONS})
    events = served.cluster.plane.events(topics)
    async with asyncio.timeout(patience_s):
        async for _ in events:
            if await holds():
                break
    await events.aclose()
