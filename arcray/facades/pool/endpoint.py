"""The WebSocket of a client: frames in and out, and every way in which a connection ends."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from arcray.core.errors import ResourceExhaustedError
from arcray.core.queues import QueueReading
from arcray.facades.pool.link import Link
from arcray.facades.pool.links import PoolLinks
from arcray.facades.pool.queues import Queue
from arcray.wire.access import deny, identity_of
from arcray.wire.sockets import Places, end, next_frame, until_one_ends, write_now_of

__all__ = ["SocketEndpoint"]

_log = logging.getLogger(__name__)

_FAULT: Final = 1011


class SocketEndpoint:
    """``WS /ws``.

    Args:
        most: connections at a time; more are refused.
    """

    def __init__(self, links: PoolLinks, most: int) -> None:
        self._links = links
        self._places = Places(most)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many connections there are, and how much waits for the one that has the most."""
        return (
            QueueReading(queue=Queue.SOCKETS, length=self._places.taken, limit=self._places.most),
            *self._links.queues(),
        )

    async def serve(self, socket: WebSocket) -> None:
        """Serves one client until it leaves or is closed."""
        if self._places.are_full:
            await deny(socket, ResourceExhaustedError("this process serves as many sockets as it may"))
            return
        with self._places.one():
            await socket.accept()
            address = socket.client.host if socket.client else ""
            link = self._links.open(identity_of(socket), address, write_now_of(socket))
            try:
                try:
                    await until_one_ends(_send(socket, link), self._receive(socket, link), link.ended())
                except Exception:  # noqa: BLE001 - a boundary: the protocol has a word for a fault of ours
                    _log.exception("connection lost to a fault")
                    link.close(_FAULT, "internal error")
                if link.closed is not None:
                    await end(socket, link.left(), *link.closed)
            finally:
                await self._links.leave(link)

    async def _receive(self, socket: WebSocket, link: Link) -> None:
        while (frame := await next_frame(socket)) is not None:
            await self._links.take(link, frame)


async def _send(socket: WebSocket, link: Link) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it left while a frame was on its way
        while True:
            for frame in await link.take():
                await socket.send_text(frame)
