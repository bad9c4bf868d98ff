"""The node actor: ``node.NodeAgent`` on one Ray node. A thin wrapper; its death is a lost lease, not an outage."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Final

from arcray import logs
from arcray.config import Settings
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.ids import NodeId
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order
from arcray.drivers.frames import decode
from arcray.node.agent import NodeAgent
from arcray.node.identity import machine_node_id
from arcray.runtime.actors import supervise, tune_interpreter
from arcray.runtime.gauges import QueueGauges
from arcray.runtime.policy import answer_s
from arcray.runtime.reconcile import RayNode
from arcray.runtime.remote_blobs import blobs_for
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.scheduler_handle import SchedulerHandle
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["NodeActor", "within"]

_START_WAIT_S: Final = 8.0  # below the driver's time-out, so that it hears the reason


class NodeActor:
    """One per alive Ray node.

    Args:
        ray_node: what Ray says of the node; bounds what is offered.
        name: of this actor; the address that orders are sent to.
        role: tells several Ray nodes of one machine apart.
    """

    def __init__(self, settings: Settings, ray_node: RayNode, name: str, role: str) -> None:
        logs.configure(settings.log_level, settings.log_format)
        self._settings = settings
        self._ray_node = ray_node
        self._name = name
        self._role = role
        self._clock = SystemClock()
        self._agent: NodeAgent | None = None
        self._started = asyncio.Event()
        self._left = 0
        self._life = supervise(self._live(), self._clock, name)

    async def deliver(self, epoch: int, frame: bytes) -> ArcrayError | None:
        """Takes orders that come by an actor call; see ``NodeAgent.deliver``."""
        try:
            await self._deliver(epoch, decode(frame))
        except ArcrayError as error:
            return error
        return None

    async def status(self) -> dict[str, Any]:
        """Returns which node this is, its process, and its attachment."""
        agent = self._agent
        return {
            "node_id": agent.node_id if agent else None,
            "epoch": agent.epoch if agent else 0,
            "pid": os.getpid(),
        }

    async def stop(self) -> int:
        """Ends what ends with the agent, and tells the cluster; the actor may then be killed.

        Returns:
            How many containers run on, for the next agent.
        """
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        return self._left

    async def _live(self) -> None:
        ids = RandomIds()
        scheduler = SchedulerHandle(client=self._name)
        plane = RemotePlane(
            scheduler,
            blobs_for(self._settings, scheduler, self._clock),
            self._clock,
            client=self._name,
            give_up_s=self._settings.gateway.call_timeout_s,
            answer_s=answer_s(self._settings),
            limit_bytes=self._settings.gateway.max_asks_bytes,
            orders=self._take,
            connected=self._greet,
        )
        node_id = await asyncio.to_thread(machine_node_id, self._settings.state_dir, ids, role=self._role)
        agent = NodeAgent(node_id=node_id, plane=plane, settings=self._settings, clock=self._clock, ids=ids)
        carrying = asyncio.create_task(plane.run())
        measuring = asyncio.create_task(QueueGauges([agent.queues, plane.queues], self._clock).run())
        try:
            registration = await agent.registration(
                driver="ray",
                facade="ray",
                address=self._name,
                external_id=self._ray_node.id,
            )
            starting = asyncio.create_task(agent.start(within(registration, self._ray_node)))
            self._agent = agent  # orders may come before the answer that names their epoch; the agent waits for it
            self._started.set()
            await starting
            tune_interpreter()
            ended = asyncio.create_task(agent.ended())
            done, _ = await asyncio.wait({ended, carrying}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._left = await agent.stop()
            carrying.cancel()
            measuring.cancel()
            await asyncio.gather(carrying, measuring, return_exceptions=True)

    def _greet(self) -> None:
        if self._agent is not None:
            self._agent.greet()

    async def _take(self, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        _ = node_id  # the line is this node's alone
        await self._deliver(epoch, orders)

    async def _deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        if self._agent is None:
            try:
                async with asyncio.timeout(_START_WAIT_S):
                    await self._started.wait()
            except TimeoutError:
                raise UnavailableError(f"{self._name} is starting") from None
        assert self._agent is not None
        await self._agent.deliver(epoch, orders)


def within(registration: NodeRegistration, ray_node: RayNode) -> NodeRegistration:
    """Returns the registration with no more than the Ray node declared, so that Ray's own numbers hold for us too."""
    capacity = dataclasses.replace(
        registration.capacity,
        cpu_milli=min(registration.capacity.cpu_milli, ray_node.cpu_milli),
        memory_bytes=min(registration.capacity.memory_bytes, ray_node.memory_bytes),
        gpus=registration.capacity.gpus[: ray_node.gpus],
    )
    return dataclasses.replace(registration, capacity=capacity)
