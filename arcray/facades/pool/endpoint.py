"""The WebSocket of a client: frames in and out, and every way in which a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from arcray.core.errors import ResourceExhaustedError
from arcray.core.queues import QueueReading
from arcray.facades.pool.link import Link
from arcray.facades.pool.links import PoolLinks
from arcray.facades.pool.queues import Queue
from arcray.wire.access import deny, identity_of

__all__ = ["SocketEndpoint"]

_CLOSE_S: Final = 1.0  # a peer that reads nothing does not answer a close either


class SocketEndpoint:
    """``WS /ws``.

    Args:
        most: connections at a time; more are refused.
    """

    def __init__(self, links: PoolLinks, most: int) -> None:
        self._links = links
        self._most = most
        self._open = 0

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many connections there are, and how much waits for the one that has the most."""
        return (
            QueueReading(queue=Queue.SOCKETS, length=self._open, limit=self._most),
            *self._links.queues(),
        )

    async def serve(self, socket: WebSocket) -> None:
        """Serves one client until it leaves or is closed."""
        if self._open >= self._most:
            await deny(socket, ResourceExhaustedError("this process serves as many sockets as it may"))
            return
        with self._place():
            await socket.accept()
            link = self._links.open(identity_of(socket), socket.client.host if socket.client else "")
            try:
                await self._converse(socket, link)
                if link.closed is not None and socket.application_state is WebSocketState.CONNECTED:
                    await _end(socket, link, *link.closed)
            finally:
                await self._links.leave(link)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _converse(self, socket: WebSocket, link: Link) -> None:
        """Sends and receives until one of both ends."""
        tasks = {
            asyncio.create_task(_send(socket, link)),
            asyncio.create_task(self._receive(socket, link)),
            asyncio.create_task(link.ended()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # what failed by our fault is raised

    async def _receive(self, socket: WebSocket, link: Link) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text: str | None = message.get("text")
            data: bytes | None = message.get("bytes")
            await self._links.take(link, text if text is not None else data or b"")


async def _send(socket: WebSocket, link: Link) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it left while a frame was on its way
        while True:
            for frame in await link.take():
                # What send_text does, without a coroutine of its own: a broadcast has a hundred receivers.
                await socket.send({"type": "websocket.send", "text": frame})


async def _end(socket: WebSocket, link: Link, code: int, reason: str) -> None:
    """Sends what is left, and closes."""
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(_CLOSE_S):
            for frame in link.left():
                await socket.send_text(frame)
            await socket.close(code, reason)
