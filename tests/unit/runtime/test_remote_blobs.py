"""Files wait for a scheduler that is away, as long as what is asked means the same twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from arcray.core.errors import NotFoundError, UnavailableError
from arcray.runtime.remote_blobs import RemoteBlobs
from arcray.testing.clock import FakeClock


class Transport:
    """Fails as often as it is told to, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures = failures
        self.error = error or UnavailableError("the scheduler is away")
        self.calls: list[tuple[Any, ...]] = []

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        self.calls.append((operation, key, *arguments))
        if len(self.calls) <= self.failures:
            raise self.error
        return b"data"


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
