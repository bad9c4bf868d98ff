from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from arcray.core.blobkeys import key_for
from arcray.core.commands import Command, ReportPhase
from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    IllegalTransitionError,
    InvalidArgumentError,
    NotFoundError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.workload import Phase
from arcray.testing.builders import a_workload, node_id
from arcray.testing.clock import FakeClock
from arcray.testing.node_fakes import MemoryBlobs
from arcray.wire.blobs import read_blob, size_of_blob
from arcray.wire.telling import tell

STALE = StaleReportError("is an older one", field="epoch")


class Told:
    """A cluster that answers as a test says, and a node that is attached again, or not, when it is lost."""

    def __init__(self, *answers: ArcrayError | None, epochs: Sequence[int] = (1,), again: bool = False) -> None:
        self.answers = list(answers)
        self.epochs = list(epochs)
        self.again = again
        self.heard: list[int] = []
        self.lost: list[str] = []
        self.clock = FakeClock()

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        (report,) = commands
        assert isinstance(report, ReportPhase)
        self.heard.append(report.epoch)
        if len(self.epochs) > 1:
            self.epochs.pop(0)
        return [self.answers.pop(0)]

    async def note(self, error: ArcrayError) -> bool:
        self.lost.append(str(error))
        return self.again

    async def is_wanted(self) -> bool:
        report = ReportPhase(node_id=node_id(1), epoch=0, workload_id=a_workload().id, attempt=1, phase=Phase.RUNNING)
        return await tell(
            self,  # type: ignore[arg-type]  # of a plane it uses no more than there is
            self.clock,
            report,
            epoch=lambda: self.epochs[0],
            lost=self.note,
            first_s=1.0,
            longest_s=2.0,
        )


async def test_what_the_cluster_has_taken_is_wanted() -> None:
    told = Told(None, epochs=[7])
    assert await told.is_wanted()
    assert (told.heard, told.lost) == ([7], [])


async def test_a_report_is_told_again_until_the_scheduler_is_there_and_further_and_further_apart() -> None:
    told = Told(*[UnavailableError("away")] * 4, None)
    telling = asyncio.create_task(told.is_wanted())
    heard = []
    for _ in range(8):
        await told.clock.advance(1.0)
        heard.append(len(told.heard))
    assert await telling
    assert heard == [2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("error", [STALE, NotFoundError("no such node", field="nodeId")], ids=repr)
async def test_what_another_attachment_has_to_say_is_asked_for(error: ArcrayError) -> None:
    attached_again = Told(error, None, epochs=[1, 2])
    assert await attached_again.is_wanted()
    assert (attached_again.heard, attached_again.lost) == ([1, 2], [])
    lost = Told(error)
    assert await lost.is_wanted()  # whoever has the node now knows
    assert lost.lost == [str(error)]
    attaching = Told(error, None, again=True)
    assert await attaching.is_wanted()
    assert attaching.heard == [1, 1]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (StaleReportError("an older attempt", field="attempt"), False),
        (NotFoundError("no such workload", field="workloadId"), False),
        (ConflictError("it has ended"), False),
        (IllegalTransitionError("it is there already"), True),
        (InvalidArgumentError("is too long", field="message"), True),
    ],
    ids=repr,
)
async def test_a_refusal_says_whether_the_work_is_wanted(error: ArcrayError, wanted: bool) -> None:
    assert await Told(error).is_wanted() is wanted


async def test_a_blob_is_read_from_its_key_or_from_where_it_is() -> None:
    blobs = MemoryBlobs()
    await blobs.put("programs/1", b"code")
    own = key_for(b"\0own", otherwise="programs/3")
    assert [await read_blob(blobs, key) for key in ("programs/1", own)] == [b"code", b"\0own"]
    assert [await size_of_blob(blobs, key) for key in ("programs/1", own, "programs/2")] == [4, 4, 0]
