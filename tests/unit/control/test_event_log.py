from __future__ import annotations

import asyncio
import gc

import pytest

from arcray.control.event_log import EventLog, EventReader, Tagged
from arcray.core.errors import UnavailableError
from arcray.core.events import BatteryRanLow, Topic
from arcray.core.ports import EventBatch
from arcray.testing.builders import T0, node_id

NODES = frozenset({Topic.NODES})


def event(number: int, topic: Topic = Topic.NODES) -> Tagged:
    return topic, BatteryRanLow(node_id=node_id(number), battery_level=0.1, at=T0)


async def opened(log: EventLog, topics: frozenset[Topic] = NODES) -> EventReader:
    reader = log.reader(topics)
    assert await reader.next(0) == EventBatch(events=())
    return reader


def numbers(batch: EventBatch | None) -> list[int]:
    assert batch is not None
    return [int(item.node_id[-4:], 16) for item in batch.events if isinstance(item, BatteryRanLow)]


async def test_the_first_batch_comes_at_once_and_says_that_the_subscription_stands() -> None:
    assert await anext(EventLog(8).reader(NODES)) == EventBatch(events=())


async def test_a_reader_gets_what_is_published_after_it_subscribed_in_order() -> None:
    log = EventLog(8)
    before = await opened(log)
    log.publish([event(1)])
    reader = await opened(log)
    log.publish([event(2), event(3)])
    assert numbers(await reader.next(0)) == [2, 3]
    assert numbers(await before.next(0)) == [1, 2, 3]


async def test_an_event_between_subscribing_and_the_first_batch_is_in_it() -> None:
    log = EventLog(8)
    reader = log.reader(NODES)
    log.publish([event(1)])
    assert numbers(await reader.next(0)) == [1]


async def test_a_reader_gets_its_topics_only() -> None:
    log = EventLog(8)
    nodes = await opened(log)
    both = await opened(log, frozenset({Topic.NODES, Topic.INFERENCE}))
    log.publish([event(1), event(2, Topic.INFERENCE), event(3, Topic.LOGS)])
    assert numbers(await nodes.next(0)) == [1]
    assert numbers(await both.next(0)) == [1, 2]


async def test_a_slow_reader_gets_a_gap_and_the_newest_events() -> None:
    log = EventLog(4)
    reader = await opened(log)
    log.publish([event(number) for number in range(1, 8)])
    batch = await reader.next(0)
    assert batch is not None
    assert (numbers(batch), batch.gap) == ([4, 5, 6, 7], True)
    log.publish([event(8)])
    assert await reader.next(0) == EventBatch(events=(event(8)[1],))


async def test_a_reader_just_in_time_has_no_gap() -> None:
    log = EventLog(4)
    reader = await opened(log)
    log.publish([event(number) for number in range(4)])
    batch = await reader.next(0)
    assert batch is not None
    assert (len(batch.events), batch.gap) == (4, False)


async def test_events_of_other_topics_make_no_gap_where_nobody_reads_them() -> None:
    log = EventLog(4)
    reader = await opened(log)
    log.publish([event(number, Topic.INFERENCE) for number in range(100)])
    log.publish([event(1)])
    batch = await reader.next(0)
    assert batch is not None
    assert (numbers(batch), batch.gap) == ([1], False)


async def test_a_waiting_reader_is_woken() -> None:
    log = EventLog(8)
    reader = await opened(log)
    waiting = asyncio.ensure_future(reader.next(5))
    await asyncio.sleep(0)
    log.publish([event(1)])
    assert numbers(await waiting) == [1]


async def test_a_cancelled_wait_loses_nothing() -> None:
    log = EventLog(8)
    reader = await opened(log)
    waiting = asyncio.ensure_future(reader.next(5))
    await asyncio.sleep(0)
    log.publish([event(1)])
    waiting.cancel()
    await asyncio.wait([waiting])
    assert numbers(await reader.next(0)) == [1]


async def test_a_long_poll_ends_empty() -> None:
    reader = await opened(EventLog(8))
    assert await reader.next(0.001) == EventBatch(events=())


async def test_one_batch_is_bounded() -> None:
    log = EventLog(4096)
    reader = await opened(log)
    log.publish([event(number) for number in range(1500)])
    sizes = []
    for _ in range(2):
        batch = await reader.next(0)
        assert batch is not None
        sizes.append(len(batch.events))
    assert sizes == [1024, 476]


async def test_closing_ends_the_iteration_even_of_one_who_waits() -> None:
    log = EventLog(8)
    reader = await opened(log)
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    await reader.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert log.wanted == frozenset()


async def test_a_topic_is_wanted_as_long_as_someone_reads_it() -> None:
    log = EventLog(8)
    first = await opened(log)
    second = await opened(log, frozenset({Topic.NODES, Topic.LOGS}))
    assert log.wanted == {Topic.NODES, Topic.LOGS}
    second.close()
    assert log.wanted == {Topic.NODES}
    first.close()
    assert log.wanted == frozenset()


async def test_a_reader_that_was_dropped_is_closed() -> None:
    log = EventLog(8)
    reader = await opened(log)
    assert log.wanted == NODES
    del reader
    gc.collect()
    assert log.wanted == frozenset()


async def test_nothing_is_kept_when_nobody_reads_any_more() -> None:
    log = EventLog(8)
    reader = await opened(log)
    log.publish([event(1)])
    reader.close()
    assert log._ring == [None] * 8


async def test_a_rebuilt_memory_is_a_gap_for_everyone() -> None:
    log = EventLog(8)
    reader = await opened(log)
    log.mark_gap()
    assert await reader.next(0) == EventBatch(events=(), gap=True)
    assert await reader.next(0) == EventBatch(events=())


async def test_the_end_of_the_log_is_told() -> None:
    log = EventLog(8)
    reader = await opened(log)
    log.end(UnavailableError("stopped"))
    with pytest.raises(UnavailableError, match="stopped"):
        await anext(reader)


async def test_events_are_let_go_of_once_every_reader_has_read_them() -> None:
    log = EventLog(8)
    fast, slow = await opened(log), await opened(log)
    log.publish([event(1), event(2)])
    assert numbers(await fast.next(0)) == [1, 2]
    assert [slot for slot in log._ring if slot] == [event(1), event(2)]
    assert log.lag == 2
    assert numbers(await slow.next(0)) == [1, 2]
    assert [slot for slot in log._ring if slot] == []
    assert log.lag == 0


async def test_a_reader_of_other_topics_keeps_no_event_alive() -> None:
    log = EventLog(8)
    reader, other = await opened(log), await opened(log, frozenset({Topic.MODELS}))
    log.publish([event(1)])
    assert numbers(await reader.next(0)) == [1]
    assert [slot for slot in log._ring if slot] == []
    log.publish([event(2, Topic.MODELS)])
    assert numbers(await other.next(0)) == [2]


async def test_a_reader_that_does_not_read_costs_no_more_than_the_ring() -> None:
    log = EventLog(4)
    reader, stuck = await opened(log), await opened(log)
    for number in range(10):
        log.publish([event(number)])
        assert numbers(await reader.next(0)) == [number]
    assert log.lag == 4
    batch = await stuck.next(0)
    assert batch is not None
    assert batch.gap
    assert numbers(batch) == [6, 7, 8, 9]
