from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from arcray.core.errors import ResourceExhaustedError, UnavailableError
from arcray.node.log_writer import LogWriter
from arcray.testing.clock import FakeClock

if TYPE_CHECKING:
    from arcray.testing.node_fakes import MemoryBlobs


async def test_first_output_is_stored_at_once_and_a_trickle_in_pieces(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock) as log:
        await log.write(b"a")
        await clock.advance(0)
        assert blobs.appends == [1]
        for _ in range(5):
            await log.write(b"b")
            await clock.advance(0.01)
        assert blobs.appends == [1]
        await clock.advance(0.25)
        assert blobs.appends == [1, 5]
        await log.write(b"end")
    assert blobs.data["log"] == b"abbbbbend"


async def test_fast_writer_waits_instead_of_filling_memory(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    async with LogWriter(blobs, "log", max_bytes=10**9, clock=clock) as log:
        writing = asyncio.ensure_future(log.write(b"x" * 2**20))
        await clock.advance(0)
        assert not writing.done()
        await clock.advance(10)
        await asyncio.wait_for(writing, 5)
    assert max(blobs.appends) <= 262_144
    assert len(blobs.data["log"]) == 2**20


async def test_store_that_is_away_for_a_while_loses_nothing(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    blobs.append_errors = [UnavailableError(), UnavailableError()]
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock) as log:
        await log.write(b"kept")
        await clock.advance(3)
    assert blobs.data["log"] == b"kept"


async def test_full_store_ends_the_log_and_not_the_work(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    blobs.append_errors = [ResourceExhaustedError()]
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock) as log:
        await log.write(b"lost")
        await clock.advance(1)
        await log.write(b"lost too")
    assert "log" not in blobs.data


async def test_stored_bytes_are_told_after_they_are_stored(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    told: list[int] = []
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock, flushed=told.append) as log:
        await log.write(b"ab")
        await clock.advance(1)
        await log.write(b"c")
    assert told == [2, 3]


@pytest.mark.parametrize("earlier", [b"", b"of the attempt before\n"])
async def test_an_append_whose_answer_was_lost_is_not_made_twice(blobs: MemoryBlobs, earlier: bytes) -> None:
    clock = FakeClock()
    if earlier:
        blobs.data["log"] = earlier
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock) as log:
        for text in (b"one\n", b"two\n", b"two\n"):
            blobs.lost_answers = 1
            await log.write(text)
            await clock.advance(0)
            await log.write(b"later\n")  # goes with what is tried again
            await clock.advance(5)
    assert blobs.data["log"] == earlier + b"one\nlater\ntwo\nlater\ntwo\nlater\n"


async def test_what_an_append_stored_in_part_is_completed(blobs: MemoryBlobs) -> None:
    clock = FakeClock()
    async with LogWriter(blobs, "log", max_bytes=1000, clock=clock) as log:
        await log.write(b"one\n")
        await clock.advance(5)
        blobs.append_errors = [UnavailableError()]
        await log.write(b"two\n")
        await clock.advance(0)
        blobs.data["log"] += b"tw"  # the scheduler died in the middle of it
        await clock.advance(5)
    assert blobs.data["log"] == b"one\ntwo\n"
