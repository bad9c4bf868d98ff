"""One subscription per process and set of topics, fanned out to any number of readers through bounded queues.

What lives here: sharing, bounding and reopening. What does not: what a reader does about a gap, which is its facade's
rule. Invariants: a stream is open exactly while it has readers; a reader never sees an event twice, and where it may
have missed one it is told by ``gap``.

Streams are kept per *set* of topics rather than one for the union, because a growing union would have to be reopened,
and everyone who read it would suffer a gap for a newcomer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ports import Clock, ControlPlane, EventBatch
from arcray.core.queues import Queue, QueueReading

__all__ = ["EventHub", "Subscription"]

_log = logging.getLogger(__name__)

_REOPEN_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # waits between attempts to reach a scheduler that is away
_GAP: Final = EventBatch(events=(), gap=True)


class Subscription:
    """One reader's queue.

    Args:
        capacity: events waiting at the most; when more come, all of them are dropped and a gap takes their place.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._batches: deque[EventBatch] = deque()
        self._waiting = 0
        self._arrived = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[EventBatch]:
        return self._all()

    def __len__(self) -> int:
        return self._waiting

    @property
    def capacity(self) -> int:
        """Events that may wait."""
        return self._capacity

    async def next(self) -> EventBatch:
        """Returns the next batch, waiting for it. Cancelling loses nothing."""
        while not self._batches:
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._batches.popleft()
        self._waiting -= len(batch.events)
        return batch

    def offer(self, batch: EventBatch) -> None:
        """Queues a batch; called by the hub."""
        if self._waiting + len(batch.events) > self._capacity:
            self._batches.clear()
            self._waiting = 0
            batch = _GAP
        elif not batch.events and self._batches and not self._batches[-1].events:
            # What has no events counts for nothing, so that a reader who is stuck could be told of gaps for ever.
            batch = EventBatch(events=(), gap=self._batches.pop().gap or batch.gap)
        self._batches.append(batch)
        self._waiting += len(batch.events)
        self._arrived.set()

    async def _all(self) -> AsyncIterator[EventBatch]:
        while True:
            yield await self.next()


@dataclass(slots=True, kw_only=True)
class _Stream:
    """One open subscription of the control plane and its readers."""

    topics: frozenset[Topic]
    readers: list[Subscription] = field(default_factory=list)
    standing: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def share(self, batch: EventBatch) -> None:
        """Hands a batch to every reader; an empty one only says that the stream stands."""
        self.standing.set()
        if batch.events or batch.gap:
            for reader in self.readers:
                reader.offer(batch)


class EventHub:
    """Fans the cluster's events out.

    Args:
        capacity: default of ``subscribe``.
    """

    def __init__(self, plane: ControlPlane, clock: Clock, *, capacity: int = 8192) -> None:
        self._plane = plane
        self._clock = clock
        self._capacity = capacity
        self._streams: dict[frozenset[Topic], _Stream] = {}
        self._group: asyncio.TaskGroup | None = None

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many events wait for the reader that has the most of them."""
        readers = [reader for stream in self._streams.values() for reader in stream.readers]
        longest = max(readers, key=len, default=None)
        length, limit = (0, self._capacity) if longest is None else (len(longest), longest.capacity)
        return (QueueReading(queue=Queue.READER_EVENTS, length=length, limit=limit),)

    async def run(self) -> None:
        """Serves until it is cancelled. Subscriptions made before it runs start with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for stream in self._streams.values():
                    stream.task = group.create_task(self._pump(stream))
                await asyncio.get_running_loop().create_future()  # until cancelled
            finally:
                self._group = None

    @asynccontextmanager
    async def subscribe(
        self, topics: frozenset[Topic], *, capacity: int | None = None, patience_s: float = 5.0
    ) -> AsyncIterator[Subscription]:
        """Opens a subscription; what is read from the plane inside the block can miss nothing of these topics.

        Args:
            capacity: events that may wait for this reader.
            patience_s: longest wait for the stream to stand.

        Raises:
            UnavailableError: the scheduler could not be reached in that time.
        """
        stream = self._streams.get(topics)
        if stream is None:
            stream = self._streams[topics] = _Stream(topics=topics)
            if self._group is not None:
                stream.task = self._group.create_task(self._pump(stream))
        reader = Subscription(capacity or self._capacity)
        stream.readers.append(reader)
        try:
            try:
                async with asyncio.timeout(patience_s):
                    await stream.standing.wait()
            except TimeoutError as error:
                raise UnavailableError("the event stream did not open in time") from error
            yield reader
        finally:
            stream.readers.remove(reader)
            if not stream.readers:
                del self._streams[topics]
                if stream.task is not None:
                    stream.task.cancel()

    async def _pump(self, stream: _Stream) -> None:
        failures = 0
        missed = False
        while True:
            try:
                # Every implementation can be closed; the port promises only what readers need.
                source = cast("AsyncGenerator[EventBatch, None]", self._plane.events(stream.topics))
                async with aclosing(source) as batches:
                    async for batch in batches:
                        failures = 0
                        # The gap is told once the stream stands again: state read earlier would itself have a gap.
                        stream.share(EventBatch(events=batch.events, gap=batch.gap or missed))
                        missed = False
            except ArcrayError as error:
                _log.warning("event stream lost", extra={"topics": sorted(stream.topics), "code": error.code})
            missed = True
            await self._clock.sleep(_REOPEN_S[min(failures, len(_REOPEN_S) - 1)])
            failures += 1
