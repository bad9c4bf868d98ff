"""Lookups: what may be about something that memory has let go of is looked up in the rows before it is handled.

What lives here: gathering them and keeping their order. What does not: which ones may repeat something (history), SQL
(journal). Invariants: what was taken is handled in the order taken, or answered with an error; how much waits is
bounded.

Every submission under an idempotency key comes this way once anything was let go of. One lookup is under way at a time,
and what comes meanwhile goes with the next one: asked for one by one, each cost two statements and as many changes of
thread, 600 us of processor; 64 together cost one statement and one change.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from arcray.control import history
from arcray.control.batch import Reply, answer
from arcray.control.journal import Journal
from arcray.control.loops import contain_async
from arcray.core.cluster import Cluster
from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, BusyError

__all__ = ["Lookups"]

_Entry: TypeAlias = tuple[Command, Reply]


class Lookups:
    """What waits for a lookup.

    Args:
        cluster: memory as it is now.
        handle: takes commands that were looked up.
        limit: commands that may wait; more are refused.
        rows: held while something that was read is not handled yet; whoever deletes rows holds it as well.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        cluster: Callable[[], Cluster],
        handle: Callable[[Sequence[Command], Sequence[Reply]], None],
        limit: int,
        rows: asyncio.Lock,
    ) -> None:
        self._journal = journal
        self._cluster = cluster
        self._handle = handle
        self._limit = limit
        self._rows = rows
        self._waiting: deque[_Entry] = deque()
        self._under_way: list[_Entry] = []
        self._work = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def add(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Takes commands some of which may repeat something; the others keep their place among them."""
        if len(self) + len(commands) > self._limit:
            for reply in replies:
                answer(reply, BusyError(f"{self._limit} submissions are being looked up already"))
            return
        self._waiting.extend(zip(commands, replies, strict=True))
        self._work.set()

    def fail(self, error: ArcrayError) -> None:
        """Answers everyone who waits with an error."""
        entries = [*self._under_way, *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        for _, reply in entries:
            answer(reply, error)

    async def turn(self) -> None:
        """Waits for work, then looks up and handles all that there is."""
        await self._work.wait()
        async with self._rows:
            await self._work_off()

    async def _work_off(self) -> None:
        self._work.clear()
        self._under_way = list(self._waiting)
        self._waiting.clear()
        failure = await contain_async(self._recall([command for command, _ in self._under_way]), "lookup")
        entries, self._under_way = self._under_way, []
        if failure is not None:
            for _, reply in entries:
                answer(reply, failure)  # those behind a submission that is not accepted may build on it
            return
        if entries:  # else they were answered meanwhile
            self._handle([command for command, _ in entries], [reply for _, reply in entries])

    async def _recall(self, commands: Sequence[Command]) -> None:
        """Takes back into memory what commands are about; nothing is let go of again before they are handled."""
        found: list[history.Found] = []
        left = list(commands)
        while of_old := [each for each in left if history.may_be_of_old(each, self._cluster().state)]:
            # Memory may have let go meanwhile of what others of these are about, so those are looked at again; and of
            # what these are about, after it changed what had been read, so these are too.
            looked_up = set(map(id, of_old))
            left = [each for each in left if id(each) not in looked_up]
            read = [*found, await history.look_up(self._journal, of_old, self._cluster().state)]
            found = []
            for each in read:
                if each.is_outdated(self._cluster()):
                    left += each.about
                else:
                    found.append(each)
        for each in found:
            each.recall(self._cluster())
