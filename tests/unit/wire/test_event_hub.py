"""The event hub shares one stream per set of topics, bounds every reader and tells gaps once the stream stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import ModelRemoved, Topic
from arcray.core.ids import ModelId
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import Query
from arcray.wire.event_hub import EventHub, Subscription

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = frozenset({Topic.NODES})
LOGS = frozenset({Topic.LOGS})
STANDS = EventBatch(events=())


def batch(*names: str) -> EventBatch:
    return EventBatch(events=tuple(ModelRemoved(model_id=ModelId(name), at=NOW) for name in names))


def names(found: EventBatch) -> list[str]:
    return [event.model_id for event in found.events if isinstance(event, ModelRemoved)]


class ScriptedPlane:
    """A plane of which only events() answers: what the test puts in; an error put in ends that stream."""

    def __init__(self) -> None:
        self.streams: list[tuple[frozenset[Topic], asyncio.Queue[EventBatch | ArcrayError]]] = []
        self.opened = asyncio.Semaphore(0)
        self.closed = asyncio.Semaphore(0)
        self.stands = True

    @property
    def blobs(self) -> BlobStore:
        raise NotImplementedError

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        raise NotImplementedError

    async def query(self, query: Query) -> Any:
        raise NotImplementedError

    async def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        queue: asyncio.Queue[EventBatch | ArcrayError] = asyncio.Queue()
        self.streams.append((topics, queue))
        self.opened.release()
        try:
            if self.stands:
                yield STANDS
            while True:
                item = await queue.get()
                if isinstance(item, ArcrayError):
                    raise item
                yield item
        finally:
            self.closed.release()

    def put(self, item: EventBatch | ArcrayError, stream: int = -1) -> None:
        self.streams[stream][1].put_nowait(item)


class InstantClock:
    """Sleeps take no time but are counted."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def running(plane: ScriptedPlane, capacity: int = 8) -> AsyncIterator[EventHub]:
    hub = EventHub(plane, InstantClock(), capacity=capacity)
    task = asyncio.create_task(hub.run())
    try:
        async with asyncio.timeout(5):
            yield hub
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_readers_of_the_same_topics_share_one_stream() -> None:
    plane = ScriptedPlane()
    async with running(plane) as hub, hub.subscribe(NODES) as first, hub.subscribe(NODES) as second:
        plane.put(batch("a"))
        assert names(await first.next()) == ["a"]
        assert names(await second.next()) == ["a"]
        assert [topics for topics, _ in plane.streams] == [NODES]


async def test_a_newcomer_with_other_topics_causes_no_gap_for_others() -> None:
    plane = ScriptedPlane()
    async with running(plane) as hub, hub.subscribe(NODES) as first:
        async with hub.subscribe(LOGS):
            plane.put(batch("a"), stream=0)
            found = await first.next()
        assert names(found) == ["a"]
        assert not found.gap


async def test_slow_reader_gets_a_gap_and_then_the_newest_events() -> None:
    plane = ScriptedPlane()
    async with running(plane) as hub, hub.subscribe(NODES, capacity=2) as slow, hub.subscribe(NODES) as quick:
        for name in "abcd":
            plane.put(batch(name))
            await quick.next()
        assert (await slow.next()).gap
        assert names(await slow.next()) == ["d"]


async def test_broken_stream_is_reopened_and_told_as_a_gap_when_it_stands_again() -> None:
    plane = ScriptedPlane()
    async with running(plane) as hub, hub.subscribe(NODES) as reader:
        plane.put(UnavailableError())
        assert (await reader.next()).gap
        assert len(plane.streams) == 2
        plane.put(batch("b"))
        found = await reader.next()
        assert names(found) == ["b"]
        assert not found.gap


async def test_stream_closes_with_its_last_reader_and_opens_again_for_the_next() -> None:
    plane = ScriptedPlane()
    async with running(plane) as hub:
        async with hub.subscribe(NODES):
            pass
        await plane.closed.acquire()
        async with hub.subscribe(NODES) as again:
            plane.put(batch("c"))
            assert names(await again.next()) == ["c"]
        assert len(plane.streams) == 2


async def test_subscription_made_before_the_hub_runs_starts_with_it() -> None:
    plane = ScriptedPlane()
    hub = EventHub(plane, InstantClock())

    async def read() -> list[str]:
        async with hub.subscribe(NODES) as reader:
            return names(await reader.next())

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    task = asyncio.create_task(hub.run())
    async with asyncio.timeout(5):
        await plane.opened.acquire()
        plane.put(batch("d"))
        assert await reading == ["d"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_stream_that_never_stands_is_unavailable() -> None:
    plane = ScriptedPlane()
    plane.stands = False
    async with running(plane) as hub:
        with pytest.raises(UnavailableError):
            async with hub.subscribe(NODES, patience_s=0.01):
                raise AssertionError("must not open")
        await plane.closed.acquire()


async def test_cancelled_wait_loses_no_event() -> None:
    subscription = Subscription(capacity=4)
    waiting = asyncio.create_task(subscription.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    subscription.offer(batch("e"))
    assert names(await subscription.next()) == ["e"]


async def test_gaps_that_nobody_reads_are_told_as_one() -> None:
    subscription = Subscription(8)
    for _ in range(3):
        subscription.offer(EventBatch(events=(), gap=True))
    subscription.offer(EventBatch(events=()))
    subscription.offer(batch("a"))
    assert (await subscription.next()).gap
    assert names(await subscription.next()) == ["a"]
    assert len(subscription) == 0
