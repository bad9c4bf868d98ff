"""The committer: group commit, in the order applied, one transaction at a time.

What lives here: which batch is written next and what its outcome means for those behind it. What does not: what a
failure does to memory (plane). Invariants: batches are released in order; nothing is released before its commit has
returned; after a failure nothing that was applied on top of it is released either.

While one batch is being written the next one grows, so the size of a transaction follows the load without a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from arcray.control.batch import Batch
from arcray.control.journal import FencedError, Journal, Records
from arcray.control.loops import contain, contain_async
from arcray.core.before import Before
from arcray.core.errors import ArcrayError, UnavailableError

__all__ = ["Committer", "as_refusal"]


class Committer:
    """The batches that are not on disk yet.

    Args:
        image: makes the records of a batch from memory as it is now.
        release: lets out what waited for a batch that is on disk.
        failed: puts memory right after a failure, given how it stood on disk; returns when writing works again.
        limit: events in one batch.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        image: Callable[[Batch], Records],
        release: Callable[[Batch], None],
        failed: Callable[[ArcrayError, Before], Awaitable[None]],
        limit: int,
    ) -> None:
        self._journal = journal
        self._image = image
        self._release = release
        self._failed = failed
        self._limit = limit
        self._open = Batch()
        self._sealed: deque[Batch] = deque()  # the first may be in the writing
        self._error: ArcrayError | None = None
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def open(self) -> Batch:
        """The batch that what is applied now belongs to; ``commit`` says that it got durable events."""
        return self._open

    @property
    def tail(self) -> Batch | None:
        """The newest batch that is not on disk; None when everything is."""
        if self._open.events:
            return self._open
        return self._sealed[-1] if self._sealed else None

    @property
    def waiting(self) -> int:
        """How many replies wait for a commit."""
        return len(self._open.replies) + sum(len(batch.replies) for batch in self._sealed)

    @property
    def gathered(self) -> int:
        """How many events the next transaction has so far."""
        return len(self._open.events)

    def changed(self) -> Before:
        """Returns what these batches write rows of."""
        before = Before()
        for batch in (*self._sealed, self._open):
            before.add(batch.before)
        return before

    def commit(self) -> None:
        """Has the open batch written soon."""
        if len(self._open.events) >= self._limit:
            self._seal()
        self._idle.clear()
        self._work.set()

    def distrust(self, fault: ArcrayError) -> None:
        """Memory may be wrong: what is sealed already is written, the rest is given up and ``failed`` is called."""
        self._error = fault
        self._idle.clear()
        self._work.set()

    def give_up(self, error: ArcrayError) -> Before:
        """Answers everyone who waits for a batch with an error and forgets the batches; returns what they changed."""
        given_up = [*self._sealed, self._open]
        self._sealed.clear()
        self._open = Batch()
        before = Before()
        for batch in given_up:
            before.add(batch.before)
            batch.settle(error=error)
        return before

    async def idle(self) -> None:
        """Waits until everything is on disk."""
        while not self._idle.is_set():  # once more after waking: others ran, and may have handed something in
            await self._idle.wait()

    async def turn(self) -> None:
        """Waits for work and writes until there is none, or until it fails."""
        await self._work.wait()
        while (batch := self._next()) is not None:
            error = await self._write(batch)
            if error is not None:
                self._error = error
                break
            self._sealed.popleft()
            self._release(batch)
        if self._error is not None:
            await self._fail(self._error)
            return  # and look again: work may have come meanwhile
        self._work.clear()
        self._idle.set()

    def _next(self) -> Batch | None:
        if not self._sealed and self._open.events:
            self._seal()
        return self._sealed[0] if self._sealed else None

    def _seal(self) -> None:
        if self._error is not None:
            return  # its rows would be taken from a memory that is not trusted
        batch = self._open
        records = contain(self._image, batch)
        if isinstance(records, ArcrayError):
            self.distrust(records)
            return
        batch.records = records
        self._sealed.append(batch)
        self._open = Batch()

    async def _write(self, batch: Batch) -> ArcrayError | None:
        assert batch.records is not None
        return await contain_async(self._journal.append(batch.records), "journal")

    async def _fail(self, error: ArcrayError) -> None:
        self._error = None  # another may come while this one is dealt with
        before = self.give_up(as_refusal(error))
        try:
            await self._failed(error, before)
        except BaseException:
            self._error = error
            raise


def as_refusal(error: ArcrayError) -> ArcrayError:
    """Returns what callers are told of an error that made writing impossible."""
    return error if isinstance(error, FencedError) else UnavailableError(f"nothing is accepted: {error.message}")
