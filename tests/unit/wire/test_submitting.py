"""Blobs of a submission: kept for as long as a workload may name them, and gone with a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from arcray.core.commands import Command, Submitted, SubmitWorkload
from arcray.core.errors import (
    ArcrayError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from arcray.core.workload import Phase, WorkloadSpec
from arcray.testing.builders import a_workload
from arcray.wire.submitting import submit_work

SPEC = a_workload(1)
BLOBS = {"programs/x.py": b"print()"}


class Blobs:
    """A blob store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        self.kept[key] = data

    async def delete(self, key: str) -> None:
        self.kept.pop(key, None)


class Plane:
    """Answers every submission in one way, once the blobs are there."""

    def __init__(self, reply: Submitted | ArcrayError) -> None:
        self.blobs = Blobs()
        self._reply = reply

    async def submit(self, commands: Sequence[Command]) -> list[object]:
        assert commands == (SubmitWorkload(spec=SPEC),)
        assert self.blobs.kept == BLOBS
        return [self._reply]


def accepted(spec: WorkloadSpec, *, created: bool) -> Submitted:
    return Submitted(workload_id=spec.id, phase=Phase.PENDING, node_id=None, message="", created=created)


async def submitted(reply: Submitted | ArcrayError) -> dict[str, bytes]:
    plane: Any = Plane(reply)
    if isinstance(reply, ArcrayError):
        with pytest.raises(type(reply)):
            await submit_work(plane, SPEC, BLOBS)
    else:
        assert await submit_work(plane, SPEC, BLOBS) == reply
    kept: dict[str, bytes] = plane.blobs.kept
    return kept


@pytest.mark.parametrize("created", [True, False], ids=["new", "asked twice over a line that broke"])
async def test_the_blobs_of_what_was_accepted_stay(created: bool) -> None:
    assert await submitted(accepted(SPEC, created=created)) == BLOBS


async def test_the_blobs_go_where_an_earlier_submission_counts() -> None:
    assert await submitted(accepted(a_workload(2), created=False)) == {}


async def test_the_blobs_of_what_was_refused_go() -> None:
    assert await submitted(ResourceExhaustedError()) == {}


@pytest.mark.parametrize("unknown", [UnavailableError(), DeadlineExceededError(), InternalError()])
async def test_the_blobs_of_what_may_have_been_accepted_stay(unknown: ArcrayError) -> None:
    assert await submitted(unknown) == BLOBS
