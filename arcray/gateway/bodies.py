"""How many bytes of gRPC's request bodies are in memory at a time.

gRPC says nothing of a message's size before it is there, and has one limit of it for all methods: what an archive may
have. So a message that is on its way is counted with the largest one, and with its own size once it is there, until its
call ends. Where there is no room for another one, a call waits for its turn with its message unread, and flow control
has the client wait as well. What comes too slowly gives up its place.

Calls are served as if they sent a stream of messages, of which one is read here: of others gRPC reads the message
before anybody here is asked, and goes on doing so when their task is cancelled. It costs a call nothing.

Who calls is seen to before, by the metadata alone, where a service can (``calls`` of HiveMind): a stranger has no
message read. Where everybody may call, everybody may hold places for a while, and so one host has three quarters of
them at the most, and a bounded number of calls that wait. Hosts have their turns one after the other: who fills the
places with messages that never come holds up those who call from there, and nobody else. Behind a proxy all are one
host. Whose call it is costs 3 us to find out, which is done only while many messages come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from arcray.core.errors import DeadlineExceededError, ResourceExhaustedError
from arcray.core.ports import Clock

__all__ = ["Bodies", "Host"]


Host: TypeAlias = Callable[[], str]
"""Tells from where a call comes."""


@dataclass(eq=False)
class _Coming:
    """A message that is on its way."""

    since_s: float
    host: Host
    late: bool = False

    @cached_property
    def name(self) -> str:
        """The host."""
        return self.host()


class Bodies:
    """Counts them.

    Args:
        limit_bytes: of all together; at least one comes at a time whatever it says.
        largest_bytes: of one.
        timeout_s: longest that one may take to come, and longest wait for a turn.
        waiting: calls of one host that may wait for a turn; more are refused at once.
    """

    def __init__(self, clock: Clock, *, limit_bytes: int, largest_bytes: int, timeout_s: float, waiting: int) -> None:
        self._clock = clock
        self._limit_bytes = max(limit_bytes, largest_bytes)
        self._largest_bytes = largest_bytes
        self._timeout_s = timeout_s
        self._most_waiting = waiting
        places = self._limit_bytes // largest_bytes
        self._share = places - places // 4
        self._coming: dict[asyncio.Task[Any], _Coming] = {}  # the oldest first
        self._granted: list[str] = []  # hosts of turns that were given and not taken yet
        self._held_bytes = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by host; who had a turn last is last

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._waiting.values()))

    @property
    def has_room(self) -> bool:
        """Whether one more may come now, from some host."""
        return self._fits

    async def receive(self, read: Callable[[], Awaitable[Any]], host: Host) -> Any:
        """Returns the message of the call that this task is, once it is there.

        Args:
            host: tells from where it comes.

        Raises:
            ResourceExhaustedError: there was no room for too long, or too many wait from there.
            DeadlineExceededError: it took too long to come.
        """
        if not self._fits or (self._places >= self._share and self._has_share(host())):
            await self._turn(host())
        task = asyncio.current_task()
        assert task is not None, "a call is a task"
        coming = self._coming[task] = _Coming(self._clock.monotonic(), host)
        try:
            return await read()
        except asyncio.CancelledError:
            if not coming.late:
                raise
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
        for task, coming in self._coming.items():
            if coming.since_s > due_s:
                return
            if not coming.late:
                coming.late = True
                task.cancel()

    @property
    def _places(self) -> int:
        return len(self._coming) + len(self._granted)

    @property
    def _fits(self) -> bool:
        return (self._places + 1) * self._largest_bytes + self._held_bytes <= self._limit_bytes

    def _has_share(self, host: str) -> bool:
        """Returns whether a host has all the places that one may have."""
        if self._places < self._share:
            return False
        return self._granted.count(host) + sum(each.name == host for each in self._coming.values()) >= self._share

    async def _turn(self, host: str) -> None:
        if len(self._waiting.get(host, ())) >= self._most_waiting:
            raise ResourceExhaustedError(f"{self._most_waiting} messages wait from there already; try again shortly")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(host, deque()).append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            self._go_without(host, turn)
            if isinstance(error, TimeoutError):
                raise ResourceExhaustedError("too many messages come at once; try again shortly") from None
            raise
        self._granted.remove(host)  # it is counted as coming next

    def _go_without(self, host: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(host)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[host]
        elif turn.done() and not turn.cancelled():
            self._granted.remove(host)
            self._wake()  # it was given as its call ended, and is another's now

    def _wake(self) -> None:
        while self._waiting and self._fits:
            host = next((each for each in self._waiting if not self._has_share(each)), None)
            if host is None:
                return
            turns = self._waiting.pop(host)
            turn = turns.popleft()
            if turns:
                self._waiting[host] = turns
            if not turn.done():
                self._granted.append(host)
                turn.set_result(None)
