from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from arcray.control.batch import Batch
from arcray.control.committer import Committer
from arcray.control.journal import Journal, Records
from arcray.core.before import Before
from arcray.core.errors import ArcrayError, InternalError, UnavailableError
from arcray.core.events import Event, ModelRemoved
from arcray.core.ids import ModelId
from arcray.testing.builders import T0


def event(number: int) -> Event:
    return ModelRemoved(model_id=ModelId(str(number)), at=T0)


class GatedJournal:
    """Writes when told, and fails as told."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def append(self, records: Records) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.written.append(records)


class Harness:
    def __init__(self, limit: int = 100) -> None:
        self.journal = GatedJournal()
        self.released: list[list[Event]] = []
        self.failures: list[ArcrayError] = []
        self.before = Before()
        self.image: Callable[[Any], Any] = list
        self.committer = Committer(
            cast("Journal", self.journal),
            image=self._image,
            release=self._release,
            failed=self._failed,
            limit=limit,
        )

    def _image(self, batch: Batch) -> Any:
        return self.image(batch.events)  # as it is by then

    def _release(self, batch: Batch) -> None:
        self.released.append(batch.events)
        batch.settle()

    async def _failed(self, error: ArcrayError, before: Before) -> None:
        self.failures.append(error)
        self.before = before

    def apply(self, *numbers: int) -> list[asyncio.Future[object]]:
        replies: list[asyncio.Future[object]] = []
        for number in numbers:
            replies.append(asyncio.get_running_loop().create_future())
            self.committer.open.events.append(event(number))
            self.committer.open.replies.append((replies[-1], number))
            self.committer.commit()
        return replies

    async def work(self) -> None:
        async with asyncio.timeout(5):
            await self.committer.turn()


def batches(harness: Harness) -> list[list[str]]:
    return [[event.model_id for event in batch if isinstance(event, ModelRemoved)] for batch in harness.journal.written]


async def test_what_is_applied_together_is_one_transaction() -> None:
    harness = Harness()
    replies = harness.apply(1, 2, 3)
    await harness.work()
    assert batches(harness) == [["1", "2", "3"]]
    assert [reply.result() for reply in replies] == [1, 2, 3]


async def test_what_is_applied_during_a_commit_is_the_next_transaction() -> None:
    harness = Harness()
    harness.journal.gate.clear()
    (first,) = harness.apply(1)
    working = asyncio.create_task(harness.work())
    await asyncio.sleep(0)
    (second,) = harness.apply(2)
    assert not first.done()
    harness.journal.gate.set()
    await working
    assert batches(harness) == [["1"], ["2"]]
    assert second.result() == 2


async def test_a_batch_is_sealed_when_it_is_full_with_the_rows_of_that_moment() -> None:
    harness = Harness(limit=2)
    version = 0
    harness.image = lambda events: (version, [event.model_id for event in events])
    for version in (1, 2, 3):
        harness.apply(version)
    await harness.work()
    assert harness.journal.written == [(2, ["1", "2"]), (3, ["3"])]


async def test_a_failure_takes_along_everything_applied_on_top_of_it() -> None:
    harness = Harness(limit=1)
    harness.journal.gate.clear()
    replies = harness.apply(1, 2)
    barrier = asyncio.ensure_future(harness.committer.open.on_disk())
    working = asyncio.create_task(harness.work())
    await asyncio.sleep(0)
    harness.journal.error = UnavailableError("disk full")
    harness.journal.gate.set()
    await working
    for reply in replies:
        error = reply.result()
        assert isinstance(error, UnavailableError)
        assert "disk full" in error.message
    assert await barrier is False
    assert harness.released == []
    assert [error.message for error in harness.failures] == ["disk full"]
    assert harness.committer.tail is None


async def test_after_a_failure_it_goes_on() -> None:
    harness = Harness()
    harness.journal.error = UnavailableError()
    harness.apply(1)
    await harness.work()
    harness.journal.error = None
    (reply,) = harness.apply(2)
    await harness.work()
    assert reply.result() == 2
    assert batches(harness) == [["2"]]


async def test_a_record_that_cannot_be_made_is_a_failure_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()

    def broken(_: object) -> Records:
        raise KeyError("workload")

    harness.image = broken
    (reply,) = harness.apply(1)
    await harness.work()
    assert isinstance(reply.result(), UnavailableError)
    assert isinstance(harness.failures[0], InternalError)
    assert harness.journal.written == []
    assert "KeyError" in caplog.text


async def test_a_bug_in_the_journal_is_a_failure_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness()
    harness.journal.error = ZeroDivisionError()
    (reply,) = harness.apply(1)
    await harness.work()
    assert isinstance(reply.result(), UnavailableError)
    assert "ZeroDivisionError" in caplog.text


async def test_distrust_lets_what_is_sealed_be_written_and_gives_the_rest_up() -> None:
    harness = Harness(limit=2)
    sealed = harness.apply(1, 2)
    (half_applied,) = harness.apply(3)
    harness.committer.distrust(InternalError("a rule tripped"))
    await harness.work()
    assert [reply.result() for reply in sealed] == [1, 2]
    assert isinstance(half_applied.result(), UnavailableError)
    assert batches(harness) == [["1", "2"]]


async def test_the_tail_is_the_newest_that_is_not_on_disk() -> None:
    harness = Harness(limit=2)
    committer = harness.committer

    def tail() -> list[Event] | None:
        return committer.tail.events if committer.tail else None

    assert tail() is None
    harness.apply(1)
    assert tail() == [event(1)]
    harness.apply(2)
    assert tail() == [event(1), event(2)]
    assert committer.waiting == 2
    await harness.work()
    assert tail() is None
    await committer.idle()


async def test_a_caller_that_has_gone_is_not_answered() -> None:
    harness = Harness()
    (reply,) = harness.apply(1)
    reply.cancel()
    await harness.work()
    assert harness.released == [[event(1)]]
