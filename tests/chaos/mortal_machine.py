"""Machines of a round of kills: one that dies with all that it knows, and an engine for the real agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from arcray.config import Settings
from arcray.core.commands import DetachNode
from arcray.core.errors import UnavailableError
from arcray.core.ids import NodeId, WorkloadId, foreign_id
from arcray.core.orders import Order
from arcray.node.agent import NodeAgent
from arcray.runtime.remote_plane import RemotePlane
from arcray.testing.node_fakes import FakeEngine, FakeGpus
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.system import RandomIds, SystemClock

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

        async def take(_node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
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


class AgentMachine:
    """The real agent over an engine on paper; this one does not die.

    Args:
        directory: its state.

    Attributes:
        engine: what it runs containers on.
    """

    def __init__(
        self,
        name: str,
        labels: Mapping[str, str],
        directory: Path,
        connect: Callable[..., RemotePlane],
        dice: random.Random,
    ) -> None:
        self.engine = ShortLivedContainers(dice)
        self._name = name
        settings = Settings.model_validate(
            {
                "state_dir": directory,
                "node": {
                    "labels": labels,
                    "heartbeat_s": 0.5,
                    "programs": {"sandbox": "none"},
                    "containers": {"images": ["busybox:*"]},
                    "models": {"enabled": False},
                },
            }
        )
        self._plane = connect(name, orders=self._take, connected=self._greet)
        self._agent = NodeAgent(
            node_id=NodeId(foreign_id("kills", name)),
            plane=self._plane,
            settings=settings,
            clock=CLOCK,
            ids=RandomIds(),
            probe=FakeGpus(),
            engine=self.engine,
        )

    async def live(self) -> None:
        """Joins, and works until it is cancelled."""
        carrying = asyncio.create_task(self._plane.run())
        try:
            await self._agent.start(await self._agent.registration(driver="ray", facade="ray", address=self._name))
            await self._agent.ended()
        finally:
            await self._agent.stop()
            carrying.cancel()

    def detach(self) -> DetachNode:
        """Returns by what it leaves."""
        return DetachNode(node_id=self._agent.node_id, epoch=self._agent.epoch)

    async def _take(self, _node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        await self._agent.deliver(epoch, orders)

    def _greet(self) -> None:
        self._agent.greet()
