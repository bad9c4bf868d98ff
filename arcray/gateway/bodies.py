"""How many bytes of gRPC's request bodies are in memory at a time.

gRPC says nothing of a message's size before it is there, and has one limit of it for all methods: what an archive may
have. So a message that is on its way is counted with the largest one, and with its own size once it is there, until its
call ends. Where there is no room for another one, a call waits for its turn with its message unread, and flow control
has the client wait as well. What comes too slowly gives up its place.

Calls are served as if they sent a stream of messages, of which one is read here: of others gRPC reads the message
before anybody here is asked, and goes on doing so when their task is cancelled. It costs a call nothing.

Who calls is seen to before, by the metadata alone, where a service can (``calls`` of HiveMind): a stranger has no
message read. Where everybody may call, everybody may hold places for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from arcray.core.errors import DeadlineExceededError, ResourceExhaustedError
from arcray.core.ports import Clock

__all__ = ["Bodies"]


class Bodies:
    """Counts them.

    Args:
        limit_bytes: of all together; at least one comes at a time whatever it says.
        largest_bytes: of one.
        timeout_s: longest that one may take to come, and longest wait for a turn.
    """

    def __init__(self, clock: Clock, *, limit_bytes: int, largest_bytes: int, timeout_s: float) -> None:
        self._clock = clock
        self._limit_bytes = max(limit_bytes, largest_bytes)
        self._largest_bytes = largest_bytes
        self._timeout_s = timeout_s
        self._coming: dict[asyncio.Task[Any], float] = {}  # since when; the oldest first
        self._late: set[asyncio.Task[Any]] = set()
        self._granted = 0  # turns that were given and not taken yet
        self._held_bytes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether one more may come now."""
        return not self._waiting and self._fits

    async def receive(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """Returns the message of the call that this task is, once it is there.

        Raises:
            ResourceExhaustedError: there was no room for too long.
            DeadlineExceededError: it took too long to come.
        """
        if not self.has_room:
            await self._turn()
        task = asyncio.current_task()
        assert task is not None, "a call is a task"
        self._coming[task] = self._clock.monotonic()
        try:
            return await read()
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            self._late.discard(task)
            task.uncancel()
            raise DeadlineExceededError(f"the message did not come within {self._timeout_s:g} s") from None
        finally:
            del self._coming[task]
            self._wake()

    def hold(self, size_bytes: int) -> None:
        """Counts a message that is there."""
        self._held_bytes += size_bytes

    def let_go(self, size_bytes: int) -> None:
        """Counts it no more."""
        self._held_bytes -= size_bytes
        self._wake()

    def give_up_late(self) -> None:
        """Ends the calls whose messages take too long. To be called now and then: a timer for each costs 5 us."""
        due_s = self._clock.monotonic() - self._timeout_s
        for task, since_s in self._coming.items():
            if since_s > due_s:
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()

    @property
    def _fits(self) -> bool:
        coming = len(self._coming) + self._granted
        return (coming + 1) * self._largest_bytes + self._held_bytes <= self._limit_bytes

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except TimeoutError:
            raise ResourceExhaustedError("too many messages come at once; try again shortly") from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled():
                self._granted -= 1  # it is counted as coming next, or goes without

    def _wake(self) -> None:
        while self._waiting and self._fits:
            turn = self._waiting.popleft()
            if not turn.done():
                self._granted += 1
                turn.set_result(None)
