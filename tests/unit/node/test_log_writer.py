from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

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
