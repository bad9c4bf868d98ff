"""The WebSocket of a node: frames in and out, and every way in which a connection ends."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from arcray.core.errors import ResourceExhaustedError
from arcray.core.queues import QueueReading
from arcray.facades.claw.link import Link
from arcray.facades.claw.links import NodeLinks
from arcray.facades.claw.queues import Queue
from arcray.facades.claw.session import POLICY, Close
from arcray.wire.access import deny, identity_of
from arcray.wire.sockets import Places, end, next_frame, send, until_one_ends

__all__ = ["NodeEndpoint"]

_log = logging.getLogger(__name__)

_REGISTER_S: Final = 10.0  # from the opening of a connection to its registration
_DRAIN_S: Final = 30.0  # for telling the cluster what a node said last


class NodeEndpoint:
    """``WS /claw``, and ``WS /`` for nodes that ask for no path.

    Args:
        max_sockets: connections at a time; more are refused.
    """

    def __init__(self, links: NodeLinks, max_sockets: int) -> None:
        self._links = links
        self._places = Places(max_sockets)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many connections there are."""
        return (QueueReading(queue=Queue.SOCKETS, length=self._places.taken, limit=self._places.most),)

    async def serve(self, socket: WebSocket) -> None:
        """Serves one node until it leaves or is closed."""
        if self._places.are_full:
            await deny(socket, ResourceExhaustedError("this process serves as many nodes as it may"))
            return
        with self._places.one():
            await socket.accept()
            link = self._links.open(identity_of(socket), socket.client.host if socket.client else "")
            telling = asyncio.create_task(link.tell_forever())
            try:
                await until_one_ends(_send(socket, link), _receive(socket, link), link.ended(), link.join_forever())
                if link.closed is not None:
                    await end(socket, link.left(), link.closed.code, link.closed.reason)
                link.close(Close(POLICY, "the node has left"))
                await self._links.leave(link)
                await link.drained(_DRAIN_S)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                await self._links.leave(link)


async def _receive(socket: WebSocket, link: Link) -> None:
    try:
        async with asyncio.timeout(_REGISTER_S):
            while link.session.registration is None:  # a frame that is too large is none, and ends nothing yet
                frame = await next_frame(socket)
                if frame is None:
                    return
                await link.take(frame)
    except TimeoutError:
        link.close(Close(POLICY, f"no registration came within {_REGISTER_S:g} s"))
        await link.ended()
    while (frame := await next_frame(socket)) is not None:
        await link.take(frame)


async def _send(socket: WebSocket, link: Link) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it left while a frame was on its way
        while True:
            await send(socket, await link.next())
