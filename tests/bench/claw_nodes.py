"""Claw nodes of a process: as many connections as are wanted, with heartbeats, readings and work that is kept running.

    python -m tests.bench.claw_nodes URL NODES EVERY_S

For every line of standard input, ``ORDERS ORDERS_PER_S``, it submits so many containers, each for a node that is drawn,
and prints how long each took from its submission to its node, in milliseconds. It is a process of its own, so that the
gateway's processor is the gateway's alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self
from uuid import UUID

import httpx
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from arcray import claw_proto as claw
from arcray.claw_proto.frames import Form, read_from_gateway, write_to_gateway
from arcray.wire.system import SystemClock

__all__ = ["Fleet", "Node"]

S: Final = claw.WorkloadState
_BACKOFF_S: Final = 0.05
_OPENING: Final = 50  # connections that are opened at a time


class Node:
    """A node that connects for as long as it lives, and keeps its work meanwhile.

    Attributes:
        began: how often it was told to run what, by its name on the wire.
        states: where each piece of its work stands.
        told_s: when it was told to run it.
        told: is set whenever it is told to run something.
        ends: what it is told to run ends at once, well.
    """

    def __init__(self, number: int, url: str, *, every_s: float, gpus: int = 4) -> None:
        self.ends = False
        self.told = asyncio.Event()
        self.id = claw.NodeId(str(UUID(int=0xA000_0000 + number)))
        self.began: Counter[claw.WorkloadId] = Counter()
        self.states: dict[claw.WorkloadId, claw.WorkloadState] = {}
        self.told_s: dict[claw.WorkloadId, float] = {}
        self.connections = 0
        self.registered = asyncio.Event()
        self._url = url
        self._every_s = every_s
        self._gpus = gpus
        self._form = list(Form)[number % len(Form)]
        self._socket: ClientConnection | None = None

    async def live(self) -> None:
        """Connects, and connects again, until it is cancelled."""
        while True:
            with suppress(OSError, ConnectionClosed):
                async with connect(self._url, open_timeout=30, max_size=1 << 20) as socket:
                    self._socket = socket
                    self.connections += 1
                    await self._serve(socket)
            self._socket = None
            self.registered.clear()
            await SystemClock().sleep(_BACKOFF_S * (1 + random.random()))

    async def finish(self) -> None:
        """Ends all that runs, well."""
        for name in [name for name, state in self.states.items() if state is S.RUNNING]:
            self.states[name] = S.COMPLETED
            await self._update(name)

    async def _serve(self, socket: ClientConnection) -> None:
        gpus = tuple(
            claw.GpuCapability(index=i, name="H100", vram_mb=81_920, compute_capability="9.0", driver_version="535")
            for i in range(self._gpus)
        )
        offer = claw.NodeCapabilities(
            total_vram_mb=81_920 * self._gpus, gpu_count=self._gpus, gpus=gpus, max_concurrent_workloads=64
        )
        await self._say(claw.Register(node_id=self.id, name="bench", capabilities=offer, protocol_version=1))
        beating = asyncio.create_task(self._beat_forever())
        try:
            async for frame in socket:
                await self._hear(read_from_gateway(frame)[0], time.perf_counter())
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _hear(self, message: claw.GatewayMessage | object, now_s: float) -> None:
        match message:
            case claw.Registered():
                self.registered.set()
            case claw.DeployWorkload(workload=workload):
                self.told_s[workload.id] = now_s
                self.began[workload.id] += 1
                self.told.set()
                for state in (S.STARTING, S.RUNNING, *((S.COMPLETED,) if self.ends else ())):
                    self.states[workload.id] = state
                    await self._update(workload.id)
            case claw.StopWorkload(workload_id=name):
                if name in self.states and not self.states[name].is_terminal:
                    self.states[name] = S.STOPPED
                    await self._update(name)
            case claw.GetWorkloadStatus(workload_id=name):
                if name in self.states:
                    await self._update(name)
            case _:
                pass

    async def _beat_forever(self) -> None:
        clock = SystemClock()
        with suppress(ConnectionClosed):
            await clock.sleep(self._every_s * random.random())
            while True:
                at = claw.Timestamp.of(SystemClock().now())
                await self._say(claw.Heartbeat(node_id=self.id, timestamp=at))
                await clock.sleep(self._every_s / 2)
                readings = tuple(
                    claw.GpuMetricsProto(
                        index=index,
                        utilization_percent=random.randrange(101),
                        memory_used_mb=40_960,
                        memory_total_mb=81_920,
                        temperature_celsius=65,
                        power_watts=300,
                    )
                    for index in range(self._gpus)
                )
                await self._say(claw.Metrics(node_id=self.id, gpu_metrics=readings, timestamp=at))
                await clock.sleep(self._every_s / 2)

    async def _update(self, name: claw.WorkloadId) -> None:
        at = claw.Timestamp.of(SystemClock().now())
        await self._say(claw.WorkloadUpdate(workload_id=name, state=self.states[name], timestamp=at))

    async def _say(self, message: claw.NodeMessage) -> None:
        if self._socket is not None:
            with suppress(ConnectionClosed):  # what it says now is asked for when it is back
                await self._socket.send(write_to_gateway(message, self._form))


class Fleet:
    """Many nodes, for the time of an asynchronous ``with``.

    Args:
        url: of the endpoint.
        every_s: between two heartbeats, and two readings.
    """

    def __init__(self, url: str, nodes: int, *, every_s: float) -> None:
        self.nodes = [Node(number, url, every_s=every_s) for number in range(nodes)]
        self._lives: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for start in range(0, len(self.nodes), _OPENING):
            some = self.nodes[start : start + _OPENING]
            self._lives += [asyncio.create_task(node.live()) for node in some]
            await self.registered(some)
        return self

    async def __aexit__(self, *_: object) -> None:
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    async def registered(self, nodes: Sequence[Node] | None = None) -> None:
        """Waits until they are connected and registered."""
        async with asyncio.timeout(60):
            await asyncio.gather(*(node.registered.wait() for node in (self.nodes if nodes is None else nodes)))


async def submitted(client: httpx.AsyncClient, number: int, node: Node | None = None) -> str:
    """Submits a container that asks for nothing, for a node; returns its id."""
    body = {"kind": "container", "image": "nginx", "name": f"order {number}"}
    if node is not None:
        body |= {"nodeId": node.id}
    answer = await client.post("/api/v1/workloads", json=body)
    answer.raise_for_status()
    found: str = answer.json()["id"]
    return found


async def _orders(fleet: Fleet, url: str, orders: int, per_s: float) -> list[float]:
    dice, took_ms = random.Random(7), []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def order(number: int) -> None:
            node = dice.choice(fleet.nodes)
            began_s = time.perf_counter()
            name = claw.WorkloadId(await submitted(client, number, node))
            while name not in node.told_s:
                node.told.clear()
                await node.told.wait()
            took_ms.append((node.told_s[name] - began_s) * 1000)

        async with asyncio.TaskGroup() as group:
            for number in range(orders):
                group.create_task(order(number))
                await SystemClock().sleep(1 / per_s)
    return took_ms


async def main(url: str, nodes: int, every_s: float) -> None:
    """Runs the load; see the module."""
    async with Fleet(url.replace("http", "ws", 1) + "/claw", nodes, every_s=every_s) as fleet:
        for node in fleet.nodes:
            node.ends = True
        print(json.dumps(nodes), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            orders, per_s = line.split()
            print(json.dumps(await _orders(fleet, url, int(orders), float(per_s))), flush=True)


if __name__ == "__main__":
    where, number, every = sys.argv[1:]
    uvloop.run(main(where, int(number), float(every)))
