"""A claw gateway of claw-proto's frames and a real WebSocket server, for tests of nodes; and our agent's process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import Dialect, Form, read_from_node, read_opening, write_to_node
from tests import agent_process
from tests.agent_process import PATIENCE_S

__all__ = ["NOW", "PATIENCE_S", "Gateway", "a_deployment", "a_gateway", "a_machine", "an_agent"]

NOW = claw.Timestamp.of(datetime(2026, 2, 3, 12, 34, 56, tzinfo=UTC))


def a_deployment(image: str, *command: str, **spec: Any) -> claw.Workload:
    """A workload that runs a command in an image."""
    return claw.Workload(
        id=claw.WorkloadId.new(),
        name="it",
        spec=claw.WorkloadSpec(image=image, command=command or None, **spec),
        created_at=NOW,
        updated_at=NOW,
    )


@dataclass
class Gateway:
    """What nodes have said, and one of them to speak to.

    Args:
        heartbeat_s: what nodes are told.
        refusal: the code that registrations are answered with; None takes them.
        form: of what it says; None is the node's own.
    """

    heartbeat_s: int = 1
    config: claw.NodeConfig | None = None
    refusal: int | None = None
    form: Form | None = None
    openings: list[claw.Register] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    metrics: list[claw.Metrics] = field(default_factory=list)
    heartbeats: int = 0
    updates: defaultdict[str, list[claw.WorkloadUpdate]] = field(default_factory=lambda: defaultdict(list))
    lines: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    keys: list[str] = field(default_factory=list)
    socket: ServerConnection | None = None
    server: Server | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds; looked at after every frame."""
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(holds)

    async def joined(self, times: int = 1) -> ServerConnection:
        """Waits until a node has registered so often."""
        await self.until(lambda: len(self.openings) >= times and self.socket is not None)
        assert self.socket is not None
        return self.socket

    async def say(self, message: claw.GatewayMessage) -> None:
        """Says something to the node."""
        assert self.socket is not None
        await self.socket.send(write_to_node(message, self.form or self.forms[-1]))

    async def deploy(self, workload: claw.Workload) -> claw.Workload:
        """Deploys a workload; returns it."""
        await self.say(claw.DeployWorkload(workload=workload))
        return workload

    def states(self, workload: claw.Workload) -> list[WorkloadState]:
        """Where a workload went, as was told."""
        return [update.state for update in self.updates[workload.id]]

    def last(self, workload: claw.Workload) -> claw.WorkloadUpdate:
        """What was told last of a workload."""
        return self.updates[workload.id][-1]

    async def reached(self, workload: claw.Workload, state: WorkloadState, times: int = 1) -> claw.WorkloadUpdate:
        """Waits until a workload was told to be in a state so often; returns the word."""
        await self.until(lambda: self.states(workload).count(state) >= times)
        return next(each for each in reversed(self.updates[workload.id]) if each.state is state)

    async def told(self, workload: claw.Workload, message: str) -> None:
        """Waits until this was said of a workload."""
        await self.until(lambda: any(update.message == message for update in self.updates[workload.id]))

    def cut(self) -> None:
        """Breaks the connection without a word."""
        assert self.socket is not None
        self.socket.transport.abort()

    async def serve_node(self, socket: ServerConnection) -> None:
        """Serves one connection."""
        request = socket.request
        self.keys.append(request.headers.get("Authorization", "") if request is not None else "")
        try:
            opening = read_opening(await socket.recv())
            assert isinstance(opening.register, claw.Register)
            self.forms.append(opening.form)
            if self.refusal is not None:
                await socket.close(self.refusal)
                return
            welcome = claw.Registered(
                heartbeat_interval_secs=self.heartbeat_s, metrics_interval_secs=1, config=self.config
            )
            await socket.send(write_to_node(welcome, self.form or opening.form))
            async with self.changed:
                self.openings.append(opening.register)
                self.socket = socket
                self.changed.notify_all()
            while True:
                message, form = read_from_node(await socket.recv(), Dialect.DOCUMENT)
                assert form is opening.form
                async with self.changed:
                    await self._take(socket, message)
                    self.changed.notify_all()
        except ConnectionClosed as error:
            async with self.changed:
                self.closes.append(error.rcvd.code if error.rcvd is not None else 1006)
                self.socket = None if self.socket is socket else self.socket
                self.changed.notify_all()

    async def _take(self, socket: ServerConnection, message: object) -> None:
        match message:
            case claw.Heartbeat():
                self.heartbeats += 1
                await socket.send(write_to_node(claw.HeartbeatAck(timestamp=NOW), self.form or self.forms[-1]))
            case claw.Metrics():
                self.metrics.append(message)
            case claw.WorkloadUpdate():
                self.updates[message.workload_id].append(message)
            case claw.WorkloadLogs():
                assert not message.is_stderr
                self.lines[message.workload_id].extend(message.lines)
            case _:
                raise AssertionError(f"a node says {message!r}")


@asynccontextmanager
async def a_gateway(port: int = 0, gateway: Gateway | None = None) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway that listens, and its URL.

    Args:
        gateway: goes on with what another has heard; None is a new one.
    """
    gateway = gateway or Gateway()
    async with serve(gateway.serve_node, "127.0.0.1", port, compression=None) as server:
        gateway.server = server
        (address, *_) = (socket.getsockname() for socket in server.sockets)
        yield gateway, f"ws://127.0.0.1:{address[1]}/claw"


an_agent = partial(agent_process.an_agent, "claw")
a_machine = partial(agent_process.a_machine, "claw")
