"""Machines: the real agent on simulated hardware, behind a network, killed and cut off at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

from arcray.config import NodeSettings, Settings
from arcray.core.commands import Command, DetachNode
from arcray.core.errors import ArcrayError, InvalidArgumentError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import NodeId
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import Query
from arcray.node.agent import NodeAgent
from arcray.testing.clock import SequenceIds
from arcray.testing.simulation.build import Build
from arcray.testing.simulation.central import Central
from arcray.testing.simulation.clock import UnsteadyClock
from arcray.testing.simulation.network import PATIENCE_S, Network
from arcray.testing.simulation.trace import Trace
from arcray.testing.simulation.watch import Watch
from arcray.testing.simulation.workshop import Book, Workshop

__all__ = ["Door", "Machine", "Machines"]

HEARTBEAT_S = 1.0


class Door:
    """The control plane as an actor has it: at the other end of the network. Implements ``core.ports.ControlPlane``."""

    def __init__(self, name: str, *, central: Central, network: Network, watch: Watch) -> None:
        self.open = True
        self._name = name
        self._central = central
        self._network = network
        self._watch = watch

    @property
    def blobs(self) -> BlobStore:
        return self._central.blobs

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        if not self.open:
            await asyncio.sleep(PATIENCE_S)
            raise UnavailableError("cut off")
        what = f"{', '.join(type(command).__name__ for command in commands)} of {self._name}"
        return await self._network.call(what, lambda: self._central.ask(commands, self._watch.replied))

    async def query(self, query: Query) -> Any:
        raise NotImplementedError

    def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        raise NotImplementedError


class Machine:
    """One machine through all lives of its agent."""

    def __init__(self, shop: Workshop, door: Door, *, build: Build, clock: UnsteadyClock, trace: Trace) -> None:
        self.shop = shop
        self.door = door
        self.agent: NodeAgent | None = None
        self._build = build
        self._clock = clock
        self._trace = trace
        self._starting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """What traces call it."""
        return self.shop.registered.name

    def start(self) -> None:
        """Starts the agent, which attaches as soon as it can."""
        if self.agent is not None:
            return
        self._trace.say(self.name, "starts")
        self.agent = self._build.agent(
            node_id=self.shop.registered.id,
            plane=self.door,
            settings=_SETTINGS,
            clock=self._clock,
            ids=SequenceIds(),
            machine=self.shop,
        )
        self._starting = asyncio.ensure_future(self.agent.start(self.shop.registered))

    async def kill(self, *, power: bool) -> None:
        """Kills the agent; containers run on unless it is the power that fails."""
        agent, self.agent = self.agent, None
        if agent is None:
            return
        self._trace.say(self.name, "loses its power" if power else "loses its agent")
        if power:
            self.shop.lose_everything()
        # As a process that is killed: nothing is told to anybody.
        tasks = {task for task in (self._starting, agent._main, *agent._work) if task is not None}  # noqa: SLF001
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Says goodbye and ends."""
        agent = self.agent
        if agent is None or not agent.epoch:
            return
        epoch = agent.epoch
        await self.kill(power=True)
        with contextlib.suppress(UnavailableError):
            await self.door.submit([DetachNode(node_id=self.shop.registered.id, epoch=epoch, reason="leaving")])

    async def take(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders off the wire."""
        if self.agent is None or not self.door.open:
            await asyncio.sleep(PATIENCE_S)
            raise UnavailableError(f"{self.name} is away")
        await self.agent.deliver(epoch, orders)


class Machines:
    """All machines, and the driver that reaches them. Implements ``core.ports.NodeDriver``.

    Attributes:
        refuses_to_carry: machines whose orders the driver cannot hand over, or says so after it has.
    """

    def __init__(self, network: Network, dice: Random) -> None:
        self.all: dict[NodeId, Machine] = {}
        self.refuses_to_carry: set[NodeId] = set()
        self._network = network
        self._dice = dice

    def add(
        self,
        registrations: Sequence[NodeRegistration],
        *,
        central: Central,
        watch: Watch,
        build: Build,
        clock: UnsteadyClock,
        trace: Trace,
        book: Book,
        seed: int,
    ) -> None:
        """Makes machines; none is started yet."""
        for registration in registrations:
            dice = Random(f"{seed} {registration.id}")  # noqa: S311 - a simulation
            shop = Workshop(registration, seed=seed, book=book, clock=clock, dice=dice)
            door = Door(registration.name, central=central, network=self._network, watch=watch)
            self.all[registration.id] = Machine(shop, door, build=build, clock=clock, trace=trace)

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        _ = address
        machine = self.all[node_id]
        broken = node_id in self.refuses_to_carry
        if not broken or self._dice.random() < 0.5:
            await self._network.call(f"{len(orders)} orders for {machine.name}", lambda: machine.take(epoch, orders))
        if broken:
            raise InvalidArgumentError("the driver cannot carry this")


_SETTINGS = Settings(node=NodeSettings(heartbeat_s=HEARTBEAT_S))
