"""A claw node that does what a test says: a real WebSocket client, in any form and dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState, original
from arcray.claw_proto.frames import (
    AnyGatewayMessage,
    AnyNodeMessage,
    Dialect,
    Form,
    read_from_gateway,
    write_to_gateway,
)
from arcray.core.commands import SubmitWorkload
from arcray.core.events import Topic
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import NodeView
from arcray.core.queries import GetNode, GetWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Container, Phase, WorkloadSpec, WorkloadView
from arcray.facades.claw.replies import wire_id
from arcray.testing.builders import a_workload

__all__ = ["AT", "ID", "PATIENCE_S", "ClawNode", "a_node", "registration", "submit", "until", "work_of"]

PATIENCE_S: Final = 10.0
ID: Final = "550e8400-e29b-41d4-a716-446655440000"
AT: Final = claw.Timestamp(datetime(2026, 2, 3, 12, 34, 56, tzinfo=UTC))
S: Final = WorkloadState


def registration(
    dialect: Dialect = Dialect.DOCUMENT, node_id: str = ID, *, version: int = 1, most: int = 8, **has: Any
) -> AnyNodeMessage:
    """Returns how a node registers."""
    name = claw.NodeId(node_id)
    if dialect is Dialect.ORIGINAL:
        capabilities = original.NodeCapabilities(memory_mib=16_384, cpu_cores=8, **has)
        return original.Register(node_id=name, name="n1", capabilities=capabilities, protocol_version=version)
    offer = claw.NodeCapabilities(max_concurrent_workloads=most, **has)
    return claw.Register(node_id=name, name="n1", capabilities=offer, protocol_version=version)


class ClawNode:
    """One connection of a node."""

    def __init__(self, socket: ClientConnection, dialect: Dialect, form: Form, node_id: str) -> None:
        self.socket = socket
        self.dialect = dialect
        self.form = form
        self.node_id = claw.NodeId(node_id)

    async def say(self, message: AnyNodeMessage) -> None:
        """Sends a message."""
        await self.socket.send(write_to_gateway(message, self.form))

    async def hear(self) -> AnyGatewayMessage:
        """Returns the next message, which is in the form of this connection."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.socket.recv()
        message, form = read_from_gateway(frame, self.dialect)
        assert form is self.form
        return message

    async def register(self, **fields: Any) -> AnyGatewayMessage:
        """Registers; returns the answer."""
        await self.say(registration(self.dialect, self.node_id, **fields))
        return await self.hear()

    async def beat(self) -> AnyGatewayMessage:
        """Sends a heartbeat; returns the answer, by which all that was sent before has been read."""
        await self.say(claw.Heartbeat(node_id=self.node_id, timestamp=AT))
        return await self.hear()

    async def tell(self, name: claw.WorkloadId, *states: WorkloadState, message: str | None = None) -> None:
        """Tells that a workload went through states."""
        for state in states:
            if self.dialect is Dialect.ORIGINAL:
                word = original.WorkloadState(state.value)
                await self.say(original.WorkloadUpdate(workload_id=name, state=word, message=message, timestamp=AT))
            else:
                await self.say(claw.WorkloadUpdate(workload_id=name, state=state, message=message, timestamp=AT))

    async def write(self, name: claw.WorkloadId, *lines: str) -> None:
        """Sends what a workload wrote."""
        await self.say(claw.WorkloadLogs(workload_id=name, lines=lines, is_stderr=False))

    async def deployed(self) -> claw.Workload:
        """Returns what it is to run, which is the next thing that it is told."""
        message = await self.hear()
        assert isinstance(message, claw.DeployWorkload), message
        return message.workload

    async def closed(self) -> tuple[int, str]:
        """Waits for the end of the connection; returns code and reason."""
        async with asyncio.timeout(PATIENCE_S):
            await self.socket.wait_closed()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""

    def text(self, frame: str | bytes) -> Any:
        """Returns a text frame, parsed."""
        assert isinstance(frame, str)
        return json.loads(frame)


@asynccontextmanager
async def a_node(
    served: Any,
    *,
    dialect: Dialect = Dialect.DOCUMENT,
    form: Form = Form.INTERNAL,
    node_id: str = ID,
    path: str = "/claw",
) -> AsyncIterator[ClawNode]:
    """Connects a node for the time of the block."""
    async with connect(f"ws://{served.url}{path}", max_size=1 << 21) as socket:
        yield ClawNode(socket, dialect, form, node_id)


async def submit(served: Any, number: int = 1, **fields: Any) -> claw.WorkloadId:
    """Submits a container that asks for nothing; returns the name of its first attempt on the wire."""
    given = {"payload": Container(image="nginx"), "demand": Demand(), "created_at": served.cluster.clock.now()}
    spec: WorkloadSpec = a_workload(number, **(given | fields))
    await served.cluster.ask(SubmitWorkload(spec=spec))
    return wire_id(spec.id, 1)


async def work_of(served: Any, number: int = 1) -> WorkloadView:
    """Returns what the cluster knows of a workload."""
    found = await served.cluster.plane.query(GetWorkload(workload_id=WorkloadId(a_workload(number).id)))
    assert isinstance(found, WorkloadView)
    return found


async def node_of(served: Any, node_id: str = ID) -> NodeView:
    """Returns what the cluster knows of a node."""
    found = await served.cluster.plane.query(GetNode(node_id=NodeId(node_id)))
    assert isinstance(found, NodeView)
    return found


async def until(served: Any, holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something holds that the cluster's events lead to."""
    events = served.cluster.plane.events(frozenset({Topic.WORKLOADS, Topic.NODES, Topic.TELEMETRY}))
    async with asyncio.timeout(PATIENCE_S):
        async for _ in events:
            if await holds():
                break
    await events.aclose()


async def in_phase(served: Any, phase: Phase, number: int = 1, attempt: int = 1) -> None:
    """Waits until a workload is in a phase."""

    async def holds() -> bool:
        view = await work_of(served, number)
        return (view.phase, view.attempt) == (phase, attempt)

    await until(served, holds)
