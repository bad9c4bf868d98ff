"""The event log: a ring of the newest events that someone reads, and a cursor per reader.

What lives here: who gets which events, and what a slow reader misses. What does not: which events exist (core) and
when they may be seen (committer). Invariants: a reader gets the events of its topics in the order published, each once;
where it may have missed one it is told by ``gap``; memory is bounded by the ring, whatever the readers do, and holds no
more than what one of them has yet to read.

Events of a topic that nobody reads are not kept: at thousands of inference requests per second that is three events
each, and ``wanted`` lets the publisher skip them for the price of a set lookup.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable
from typing import Final, TypeAlias

from arcray.core.errors import ArcrayError
from arcray.core.events import Event, Topic
from arcray.core.ports import EventBatch

__all__ = ["EventLog", "EventReader", "Tagged"]

Tagged: TypeAlias = tuple[Topic, Event]
_BATCH_LIMIT: Final = 1024  # events handed to a reader at once


class EventReader:
    """One subscription; an async iterator that ends only by ``aclose``. A reader that is dropped is closed.

    The first batch comes at once and says that the subscription stands.
    """

    def __init__(self, log: EventLog, topics: frozenset[Topic], start: int) -> None:
        self.topics = topics
        self._log = log
        self.cursor = start
        """Sequence number of the next event to look at; the log moves it over what is not for this reader."""
        self._greeted = False
        self._gap = False
        self._closed = False
        self._error: ArcrayError | None = None
        self._arrived = asyncio.Event()

    def __aiter__(self) -> EventReader:
        return self

    async def __anext__(self) -> EventBatch:
        batch = await self.next(None)
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def next(self, timeout_s: float | None) -> EventBatch | None:
        """Returns the next batch, waiting for it; None once closed. Cancelling loses nothing.

        Args:
            timeout_s: longest wait, after which an empty batch is returned: a long poll. None waits on.

        Raises:
            ArcrayError: the log ended, and why.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if self._closed:
                        return None
                    if self._error is not None:
                        raise self._error
                    batch = self._take()
                    if batch.events or batch.gap or not self._greeted:
                        self._greeted = True
                        return batch
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return EventBatch(events=())

    async def aclose(self) -> None:
        """Ends the subscription."""
        self.close()

    def close(self) -> None:
        """Ends the subscription."""
        self._closed = True
        self._arrived.set()
        self._log.forget(self)

    def wake(self) -> None:
        """Something may have arrived; called by the log."""
        self._arrived.set()

    def miss(self) -> None:
        """Something was lost; called by the log."""
        self._gap = True
        self._arrived.set()

    def fail(self, error: ArcrayError) -> None:
        """The log ended; called by the log."""
        self._error = error
        self._arrived.set()

    def _take(self) -> EventBatch:
        found, self.cursor, missed = self._log.read(self.cursor, self.topics)
        self._log.release()
        gap = self._gap or missed
        self._gap = False
        return EventBatch(events=tuple(found), gap=gap)


class EventLog:
    """The ring.

    Args:
        capacity: events kept.
    """

    def __init__(self, capacity: int) -> None:
        self._ring: list[Tagged | None] = [None] * capacity
        self._released = 0  # events before this one are let go of
        self._next = 0  # sequence number of the next event; its slot is that modulo the capacity
        self._readers: dict[int, weakref.ref[EventReader]] = {}
        self.wanted: frozenset[Topic] = frozenset()
        """Topics that someone reads; events of others need not be published."""

    def reader(self, topics: frozenset[Topic]) -> EventReader:
        """Opens a subscription to what is published from now on."""
        reader = EventReader(self, topics, self._next)
        key = id(reader)
        # Weak, so that a reader whose owner went without closing it does not keep its topics wanted for ever.
        self._readers[key] = weakref.ref(reader, lambda _: self._drop(key))
        self._recount()
        return reader

    def publish(self, events: Iterable[Tagged]) -> None:
        """Adds events, in order, and wakes their readers."""
        ring, capacity, wanted = self._ring, len(self._ring), self.wanted
        position = self._next
        topics = set()
        for tagged in events:
            if tagged[0] in wanted:
                ring[position % capacity] = tagged
                position += 1
                topics.add(tagged[0])
        if position == self._next:
            return
        before, self._next = self._next, position
        for reader in self._alive():
            if not reader.topics.isdisjoint(topics):
                reader.wake()
            elif reader.cursor == before:
                reader.cursor = position  # nothing in it for that one, so it need not wake to find that out

    @property
    def lag(self) -> int:
        """How many events the slowest reader has yet to look at."""
        return min(max((self._next - reader.cursor for reader in self._alive()), default=0), len(self._ring))

    def mark_gap(self) -> None:
        """Tells every reader that events were lost: memory was rebuilt."""
        for reader in self._alive():
            reader.miss()

    def end(self, error: ArcrayError) -> None:
        """Ends every subscription with an error."""
        for reader in self._alive():
            reader.fail(error)

    def read(self, cursor: int, topics: frozenset[Topic]) -> tuple[list[Event], int, bool]:
        """Returns the events of these topics from ``cursor`` on, the next cursor, and whether some were overwritten."""
        ring, capacity = self._ring, len(self._ring)
        missed = self._next - cursor > capacity
        position = self._next - capacity if missed else cursor
        found: list[Event] = []
        while position < self._next and len(found) < _BATCH_LIMIT:
            tagged = ring[position % capacity]
            position += 1
            if tagged is not None and tagged[0] in topics:
                found.append(tagged[1])
        return found, position, missed

    def release(self) -> None:
        """Lets go of the events that every reader has looked at."""
        ring, capacity = self._ring, len(self._ring)
        seen = min((reader.cursor for reader in self._alive()), default=self._next)
        for position in range(max(self._released, self._next - capacity), seen):
            ring[position % capacity] = None
        self._released = max(self._released, seen)

    def forget(self, reader: EventReader) -> None:
        """Closes a subscription."""
        self._drop(id(reader))

    def _drop(self, key: int) -> None:
        if self._readers.pop(key, None) is not None:
            self._recount()

    def _recount(self) -> None:
        self.wanted = frozenset().union(*(reader.topics for reader in self._alive()))
        if not self.wanted:
            self._ring = [None] * len(self._ring)  # nobody will read what is left

    def _alive(self) -> list[EventReader]:
        return [reader for reference in self._readers.values() if (reader := reference()) is not None]
