"""WebSockets of facades: how many there may be, what comes in as a frame, and how one is brought to its end.

What lives here: what every endpoint of one does alike. What does not: what a frame means, and why a connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

__all__ = ["WRITE_NOW", "Frame", "Places", "end", "next_frame", "send", "until_one_ends", "write_now_of"]

_CLOSE_S: Final = 1.0  # a peer that reads nothing does not answer a close either

Frame: TypeAlias = str | bytes

WRITE_NOW: Final = "arcray.websocket.write_now"
"""Extension of a server: ``function`` writes a text if the client takes it now, and says whether it did."""


class Places:
    """Counts the connections of an endpoint.

    Args:
        most: at a time.

    Attributes:
        taken: how many there are.
    """

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self.taken = 0

    @property
    def are_full(self) -> bool:
        """Whether there is none for another."""
        return self.taken >= self.most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Takes a place for the time of the block."""
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def next_frame(socket: WebSocket) -> Frame | None:
    """Returns the next frame; None when the peer has left."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    text: str | None = message.get("text")
    data: bytes | None = message.get("bytes")
    return text if text is not None else data or b""


async def send(socket: WebSocket, frame: Frame) -> None:
    """Sends a frame.

    Raises:
        WebSocketDisconnect, RuntimeError: the peer has left.
    """
    if isinstance(frame, str):
        await socket.send_text(frame)
    else:
        await socket.send_bytes(frame)


def write_now_of(socket: WebSocket) -> Callable[[str], bool]:
    """Returns what writes a text if the client takes it now, and says whether it did; of most servers it never does.

    Sending costs four coroutines, one for each layer of the application; a broadcast pays for them a hundred times.
    """
    extension = socket.scope.get("extensions", {}).get(WRITE_NOW)
    if extension is None:
        return lambda _: False
    found: Callable[[str], bool] = extension["function"]
    return found


async def until_one_ends(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """Does several things until the first of them is over, and ends the others; raises what it ended by.

    Returns:
        What each has come to, in order; None of those that were ended.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() if task in done else None for task in tasks]  # what failed by our fault is raised


async def end(socket: WebSocket, left: Iterable[Frame], code: int, reason: str) -> None:
    """Sends what is left, and closes; does neither where the peer has left or reads nothing."""
    if socket.application_state is not WebSocketState.CONNECTED:
        return
    with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
        async with asyncio.timeout(_CLOSE_S):
            for frame in left:
                await send(socket, frame)
            await socket.close(code, reason)
