"""Machines of a round of kills: one that dies with all that it knows, and an engine for the real agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.orders import Order
from arcray.runtime.remote_plane import RemotePlane
from arcray.testing.node_fakes import FakeEngine
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.system import SystemClock

CLOCK = SystemClock()


class ShortLivedContainers(FakeEngine):
    """An engine whose containers end by themselves soon after they have started."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    async def start(self, container_id: str) -> None:
        await super().start(container_id)
        exit_code = int(self._dice.random() < 0.2)
        asyncio.get_running_loop().call_later(
            self._dice.random() * 0.05, lambda: self.finish(container_id, exit_code=exit_code)
        )


class Machine:
    """A simulated node and its process, which dies with all that it knows and is started again by itself."""

    def __init__(self, name: str, make: Callable[[str], SimulatedNode], connect: Callable[..., RemotePlane]) -> None:
        self.name = name
        self._make = make
        self._connect = connect
        self._lives: list[SimulatedNode] = []
        self.joined = asyncio.Event()
        """Set once it has been part of the cluster."""

    @property
    def node(self) -> SimulatedNode:
        return self._lives[-1]

    @property
    def executed(self) -> list[tuple[WorkloadId, int]]:
        """What it began to work on in all of its lives."""
        return [each for node in self._lives for each in node.executed]

    async def live(self) -> None:
        """Is one process, until it is cancelled: killed."""
        node = self._make(self.name)
        self._lives.append(node)
        alive = True

        async def take(epoch: int, orders: Sequence[Order]) -> None:
            if not alive:
                raise UnavailableError(f"{self.name} is dead")
            await node.deliver(epoch, orders)

        async with asyncio.TaskGroup() as group:
            try:
                plane = self._connect(self.name, orders=take, connected=node.greet)
                group.create_task(plane.run())
                await node.join(plane, CLOCK, group)
                self.joined.set()
                await asyncio.get_running_loop().create_future()
            finally:
                alive = False
