"""One socket's queue: frames that wait for it, and how it is to end.

What waits for nothing is sent at once: to wake the socket's own task for each frame of a broadcast costs a tenth of
what sending it does. A socket that does not take it now holds up nobody: its frames queue, and its task waits.

A queue that is full ends the connection: who does not keep up with the pool would be told of what it was. It is full by
the number of its frames, or by the size of those that are for this socket alone: some hold whole programs, or what
their sender liked to say. What everybody is told is small, and not measured: it has a hundred receivers at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from arcray.facades.pool.session import POLICY, SocketId
from arcray.wire.identity import Identity

__all__ = ["Link"]

_BEHIND: Final = "this socket does not keep up"
_REASON_BYTES: Final = 123  # what a close frame has room for


class Link:
    """One connection.

    Args:
        identity: who opened it.
        write_now: writes a frame if the socket takes it now, and says whether it did.
        most: frames that may wait.
        most_characters: of those among them together that are for it alone; one frame may have more.

    Attributes:
        closed: code and reason of how it is to end, or has ended; None while it stands.
    """

    def __init__(
        self,
        socket: SocketId,
        identity: Identity,
        write_now: Callable[[str], bool],
        *,
        most: int,
        most_characters: int,
    ) -> None:
        self.id: Final = socket
        self.identity: Final = identity
        self._write_now = write_now
        self.closed: tuple[int, str] | None = None
        self._most = most
        self._most_characters = most_characters
        self._characters = 0
        self._frames: deque[str] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def send(self, frame: str) -> None:
        """Sends or queues a frame of any size; of one that is to end, or is behind too far, nothing."""
        if self._sent(frame):
            return
        waits = self._characters
        self._characters += len(frame)
        if waits and self._characters > self._most_characters:
            self._frames.clear()
            self.close(POLICY, _BEHIND)
        self._queue(frame)

    def tell(self, frame: str) -> None:
        """Sends or queues what everybody is told."""
        if not self._sent(frame):
            self._queue(frame)

    def _sent(self, frame: str) -> bool:
        """Sends a frame if nothing is before it and the socket takes it now; returns whether it has."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and self.closed is None and self._write_now(frame)

    def _queue(self, frame: str) -> None:
        if self.closed is not None:
            return
        frames = self._frames
        if len(frames) >= self._most:
            frames.clear()
            self.close(POLICY, _BEHIND)
            return
        frames.append(frame)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():  # who waits may have been cancelled
                waiter.set_result(None)

    async def take(self) -> Sequence[str]:
        """Returns all that waits, once anything does; together, because to wait costs more than to send."""
        if not self._frames:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.left()

    def left(self) -> Sequence[str]:
        """Returns what waits, and takes it off the queue."""
        frames = tuple(self._frames)
        self._frames.clear()
        self._characters = 0
        return frames

    def close(self, code: int, reason: str) -> None:
        """Ends the connection; the first word of how stands."""
        if self.closed is None:
            self.closed = code, reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore")
            self._ended.set()

    async def ended(self) -> None:
        """Returns once the connection is to end."""
        await self._ended.wait()
