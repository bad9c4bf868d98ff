"""The WebSocket of a node: frames in and out, and every way in which a connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from arcray.claw_proto.frames import Frame
from arcray.core.errors import ResourceExhaustedError
from arcray.core.queues import QueueReading
from arcray.facades.claw.link import Link
from arcray.facades.claw.links import NodeLinks
from arcray.facades.claw.queues import Queue
from arcray.facades.claw.session import POLICY, Close
from arcray.wire.access import deny, identity_of

__all__ = ["NodeEndpoint"]

_log = logging.getLogger(__name__)

_REGISTER_S: Final = 10.0  # from the opening of a connection to its registration
_CLOSE_S: Final = 1.0  # a peer that reads nothing does not answer a close either
_DRAIN_S: Final = 30.0  # for telling the cluster what a node said last


class NodeEndpoint:
    """``WS /claw``, and ``WS /`` for nodes that ask for no path.

    Args:
        max_sockets: connections at a time; more are refused.
    """

    def __init__(self, links: NodeLinks, max_sockets: int) -> None:
        self._links = links
        self._max_sockets = max_sockets
        self._open = 0

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many connections there are."""
        return (QueueReading(queue=Queue.SOCKETS, length=self._open, limit=self._max_sockets),)

    async def serve(self, socket: WebSocket) -> None:
        """Serves one node until it leaves or is closed."""
        if self._open >= self._max_sockets:
            await deny(socket, ResourceExhaustedError("this process serves as many nodes as it may"))
            return
        with self._place():
            await socket.accept()
            link = self._links.open(identity_of(socket))
            telling = asyncio.create_task(link.tell_forever())
            try:
                close = await _converse(socket, link)
                link.close(close or Close(POLICY, "the node has left"))
                if close is not None and socket.application_state is WebSocketState.CONNECTED:
                    await _end(socket, link, close)
                await self._links.leave(link)
                await link.drained(_DRAIN_S)
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                await self._links.leave(link)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


async def _converse(socket: WebSocket, link: Link) -> Close | None:
    """Sends and receives until one of both ends; returns how to close, None when the node has left."""
    sending = asyncio.create_task(_send(socket, link))
    receiving = asyncio.create_task(_receive(socket, link))
    ending = asyncio.create_task(link.ended())
    joining = asyncio.create_task(link.join_forever())
    tasks = {sending, receiving, ending, joining}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if ending in done:
        return ending.result()
    for task in done:
        task.result()  # what failed by our fault is raised
    return None


async def _receive(socket: WebSocket, link: Link) -> None:
    try:
        async with asyncio.timeout(_REGISTER_S):
            while link.session.registration is None:  # a frame that is too large is none, and ends nothing yet
                frame = await _frame(socket)
                if frame is None:
                    return
                await link.take(frame)
    except TimeoutError:
        link.close(Close(POLICY, f"no registration came within {_REGISTER_S:g} s"))
        await link.ended()
    while (frame := await _frame(socket)) is not None:
        await link.take(frame)


async def _frame(socket: WebSocket) -> Frame | None:
    """Returns the next frame; None when the node has left."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    text: str | None = message.get("text")
    data: bytes | None = message.get("bytes")
    return text if text is not None else data or b""


async def _send(socket: WebSocket, link: Link) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it left while a frame was on its way
        while True:
            await _send_one(socket, await link.next())


async def _send_one(socket: WebSocket, frame: Frame) -> None:
    if isinstance(frame, str):
        await socket.send_text(frame)
    else:
        await socket.send_bytes(frame)


async def _end(socket: WebSocket, link: Link, close: Close) -> None:
    """Sends what is left, and closes."""
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(_CLOSE_S):
            for frame in link.left():
                await _send_one(socket, frame)
            await socket.close(close.code, close.reason)
