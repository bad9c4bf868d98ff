"""Serves facades over a whole control plane in this process, for clients that speak the wire."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from arcray.config import Settings
from arcray.core.policy import ClusterPolicy
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire import problem
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.limits import BodyBound, BodyLimit
from arcray.wire.system import RandomIds


@dataclass(frozen=True, slots=True)
class Served:
    """Facades being served.

    Args:
        client: speaks HTTP to them, without a network.
        network: the same by the real listener, for answers that come bit by bit.
        url: host and port of the real listener; "" where none was asked for.
        state_dir: database and blobs.
    """

    client: httpx.AsyncClient
    network: httpx.AsyncClient
    cluster: InProcessPlane
    app: FastAPI
    url: str
    state_dir: Path


Serve: TypeAlias = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve() -> Serve:
    """Returns what serves facades: ``async with serve(nodes=[...], listen=True, **settings) as served``."""
    return serving


@asynccontextmanager
async def serving(
    *,
    nodes: Sequence[SimulatedNode] | None = None,
    policy: ClusterPolicy | None = None,
    listen: bool = False,
    port: int = 0,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serves facades for the time of the block.

    Args:
        nodes: None is one node.
        listen: whether there is a real listener.
        settings: sections of them.
    """
    async with AsyncExitStack() as stack:
        state_dir = Path(stack.enter_context(TemporaryDirectory(prefix="arcray-")))
        found = Settings(state_dir=state_dir, **settings)
        cluster = await stack.enter_async_context(in_process_plane(nodes=nodes, policy=policy, state_dir=state_dir))
        events = EventHub(cluster.plane, cluster.clock)
        context = FacadeContext(
            plane=cluster.plane,
            settings=found,
            clock=cluster.clock,
            ids=RandomIds(),
            authenticator=Authenticator(found.auth, cluster.plane, events, cluster.clock),
            events=events,
            attachments=cluster.driver,
        )
        app = FastAPI()
        problem.install(app)
        background = [context.events.run(), context.authenticator.run()]
        tighter: dict[str, BodyBound] = {}
        for facade in load_facades(found.facades):
            endpoints = facade.open(context)
            tighter |= endpoints.bodies
            if endpoints.router is not None:
                app.include_router(endpoints.router)
            if endpoints.run is not None:
                background.append(endpoints.run())
        largest = BodyBound(bytes=found.gateway.max_body_bytes, setting="gateway.max_body_bytes")
        app.add_middleware(BodyLimit, bound=largest, tighter=tighter)
        tasks = [asyncio.create_task(work) for work in background]
        stack.push_async_callback(_cancelled, tasks)
        url = await stack.enter_async_context(_listening(app, port)) if listen else ""
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1"))
        network = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://{url or 'nowhere'}"))
        yield Served(client, network, cluster, app, url, state_dir)


@asynccontextmanager
async def _listening(app: FastAPI, port: int) -> AsyncIterator[str]:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()  # connections wait in the backlog until the server takes them
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="websockets-sansio"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
