"""Files wait for a scheduler that is away, as long as what is asked means the same twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key, result_key
from arcray.core.errors import NotFoundError, UnavailableError
from arcray.core.ids import WorkloadId
from arcray.runtime.remote_blobs import RemoteBlobs, SharedBlobs
from arcray.testing.builders import a_workload
from arcray.testing.clock import FakeClock


class Transport:
    """Fails as often as it is told to, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or UnavailableError("the scheduler is away")
        self.calls: list[tuple[Any, ...]] = []
        self.told: asyncio.Queue[dict[WorkloadId, int]] = asyncio.Queue()

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        self.calls.append((operation, key, *arguments))
        if len(self.calls) <= self.failures:
            raise self.error
        return b"data"

    async def logs_grew(self, sizes: Mapping[WorkloadId, int]) -> None:
        self.told.put_nowait(dict(sizes))
        if self.told.qsize() <= self.failures:
            raise self.error


async def asked(transport: Transport, after_s: float) -> tuple[RemoteBlobs, asyncio.Task[bytes]]:
    clock = FakeClock()
    blobs = RemoteBlobs(transport, clock, give_up_s=30.0)
    reading = asyncio.create_task(blobs.get("logs/w.log"))
    await clock.advance(after_s)
    return blobs, reading


async def test_what_is_read_waits_for_the_scheduler() -> None:
    transport = Transport(failures=5)
    _, reading = await asked(transport, 2.0)
    assert (await reading, len(transport.calls)) == (b"data", 6)


async def test_a_scheduler_that_stays_away_is_not_waited_for_for_ever() -> None:
    _, reading = await asked(Transport(failures=1_000), 31.0)
    with pytest.raises(UnavailableError):
        await reading


async def test_what_is_no_absence_is_told_at_once() -> None:
    transport = Transport(failures=1, error=NotFoundError("no such file"))
    _, reading = await asked(transport, 0.0)
    with pytest.raises(NotFoundError):
        await reading


async def test_appending_is_not_done_again() -> None:
    transport = Transport(failures=1)
    blobs = RemoteBlobs(transport, FakeClock(), give_up_s=30.0)
    with pytest.raises(UnavailableError):
        await blobs.append("logs/w.log", b"line")
    assert len(transport.calls) == 1


async def test_the_scheduler_is_told_of_logs_that_it_does_not_see_grow(tmp_path: Path) -> None:
    transport, clock = Transport(failures=1), FakeClock()
    blobs = SharedBlobs(FsspecBlobs(tmp_path, max_blob_bytes=1_000), transport, clock)
    one, other = a_workload(1).id, a_workload(2).id
    async with asyncio.timeout(5):
        await blobs.append(log_key(one), b"a")
        assert await transport.told.get() == {one: 1}  # at once, and that it fails does no harm
        for key, data in ((log_key(one), b"b"), (log_key(other), b"xyz"), (log_key(one), b"c")):
            await blobs.append(key, data)
        await blobs.append(result_key(one, "r"), b"no log")
        await clock.advance(0.2)
        assert transport.told.empty()
        await clock.advance(0.1)
        assert await transport.told.get() == {one: 3, other: 3}
        await clock.advance(10)
        assert transport.told.empty()
        await blobs.append(log_key(other), b"!")
        assert await transport.told.get() == {other: 4}


async def test_files_of_a_shared_store_do_not_pass_the_scheduler(tmp_path: Path) -> None:
    transport = Transport(failures=1)
    blobs = SharedBlobs(FsspecBlobs(tmp_path, max_blob_bytes=1_000), transport, FakeClock())
    await blobs.put("a", b"data")
    assert (await blobs.get("a", 1, 3), await blobs.size("a")) == (b"at", 4)
    await blobs.delete("a")
    assert await blobs.size("a") is None
    assert transport.calls == []


async def test_small_calls_go_over_the_line_once_there_is_one() -> None:
    transport, line = Transport(failures=0), Transport(failures=0)
    blobs = RemoteBlobs(transport, FakeClock(), give_up_s=30.0)
    await blobs.size("programs/p.py")
    blobs.go_by(line.blob)
    large = bytes(128 * 1024 + 1)
    await blobs.size("programs/p.py")
    await blobs.put("programs/p.py", large[1:])
    await blobs.get("programs/p.py", 5, 10)
    await blobs.delete("programs/p.py")
    assert [call[0] for call in line.calls] == ["size", "put", "get", "delete"]
    await blobs.put("programs/p.py", large)
    await blobs.get("programs/p.py")
    await blobs.append("logs/w.log", b"line")  # which would be there twice after a line that breaks
    assert [call[0] for call in transport.calls] == ["size", "put", "get", "append"]
