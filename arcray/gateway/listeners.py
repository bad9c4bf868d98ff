"""HTTP listeners: sockets of our own, served by uvicorn on the replica's event loop.

What lives here: binding, limits of a connection, draining. What does not: what is answered. A port is shared by the
replicas of one machine through SO_REUSEPORT; the kernel spreads connections over those that listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from arcray.config import GatewaySettings
from arcray.core.errors import UnavailableError
from arcray.core.queues import Queue, QueueReading
from arcray.gateway.heads import HeadLimit
from arcray.gateway.patience import LOOK_S, Patience
from arcray.gateway.protocols import HttpProtocol, WebSocketProtocol

__all__ = ["HttpListener", "bind", "connections", "floods"]

_BACKLOG: Final = 2048
_TICKS_PER_LOOK: Final = round(LOOK_S / 0.1)  # uvicorn's tick


def bind(host: str, port: int) -> socket.socket:
    """Returns a bound socket that other replicas may bind too.

    Raises:
        UnavailableError: the address cannot be bound; names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    bound.settimeout(0)
    return bound


class HttpListener:
    """One HTTP and WebSocket listener.

    Args:
        port: 0 lets the system choose, for tests.

    Attributes:
        floods: WebSockets that were closed because they sent too much.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings, port: int) -> None:
        self._socket = bind(settings.host, port)
        self.port: int = self._socket.getsockname()[1]
        self.floods = 0
        # uvicorn calls what it takes for classes.
        limit = HeadLimit(size_bytes=settings.max_header_bytes, headers=settings.max_headers)
        http: Any = partial(HttpProtocol, head_limit=limit, max_connections=settings.max_connections)
        websocket: Any = partial(WebSocketProtocol, frames_per_s=settings.ws_frames_per_s, on_flood=self._count_flood)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=http,
                ws=websocket,
                ws_max_size=settings.ws_max_bytes,
                ws_per_message_deflate=False,  # costs memory per connection, and our messages are small
                lifespan="off",
                log_config=None,
                access_log=False,  # measured: a fifth of the throughput; the counters are in the metrics
                server_header=False,
                proxy_headers=False,  # who calls decides about access, so no header may claim it
                backlog=_BACKLOG,
                timeout_keep_alive=settings.idle_timeout_s,
                timeout_graceful_shutdown=max(1, round(settings.drain_s)),
            ),
            Patience(settings),
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens; returns once connections are taken.

        Raises:
            UnavailableError: it ended while starting.
        """
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name=f"http {self.port}")
        started = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        self.check()

    def check(self) -> None:
        """Raises ``UnavailableError`` when it listens no more."""
        if self._serving is None or self._serving.done():
            raise UnavailableError("an HTTP listener has ended")

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    async def drain(self) -> None:
        """Takes no more connections, lets requests end within the drain time, then cuts what is left."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.gather(self._serving, return_exceptions=True)

    def _count_flood(self) -> None:
        self.floods += 1


def connections(listeners: Sequence[HttpListener], settings: GatewaySettings) -> tuple[QueueReading, ...]:
    """Returns how many connections the listener has that has the most of them."""
    most = max((listener.connections for listener in listeners), default=0)
    return (QueueReading(queue=Queue.CONNECTIONS, length=most, limit=settings.max_connections),)


def floods(listeners: Sequence[HttpListener]) -> int:
    """Returns how many WebSockets have been closed because they sent too much."""
    return sum(listener.floods for listener in listeners)


class _Server(uvicorn.Server):
    """uvicorn's server in a process whose signals belong to Ray, with limits to its patience."""

    def __init__(self, config: uvicorn.Config, patience: Patience) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._patience = patience

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_LOOK == 0:
            self._patience.look(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()
