"""Why tasks wait: found out seldom, told often."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ExplainWorkload, GetWorkload
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind.reasons import Reasons
from arcray.testing.builders import a_workload
from arcray.testing.clock import FakeClock
from arcray.testing.world import World


class Plane:
    """Explains what waits in a world without nodes, and counts how often it was asked."""

    def __init__(self) -> None:
        self.world = World(ClusterPolicy())
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: ArcrayError | None = None

    def waiting(self, number: int) -> WorkloadView:
        spec = a_workload(number)
        self.world.submit(spec)
        view = self.world.cluster.answer(GetWorkload(workload_id=spec.id), self.world.now)
        assert isinstance(view, WorkloadView)
        return view

    async def query(self, query: ExplainWorkload) -> Any:
        self.asked.append(query.workload_id)
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        return self.world.cluster.answer(query, self.world.now)


def reasons_of(plane: Plane, clock: FakeClock) -> Reasons:
    port: Any = plane
    return Reasons(port, clock)


async def test_a_reason_is_told_for_some_seconds_before_it_is_found_out_anew() -> None:
    plane, clock = Plane(), FakeClock()
    reasons, view = reasons_of(plane, clock), plane.waiting(1)
    sentence = await reasons.of(view)
    assert "no node" in sentence, sentence
    await clock.advance(4.9)
    assert await reasons.of(view) == sentence
    assert len(plane.asked) == 1
    await clock.advance(0.2)
    assert await reasons.of(view) == sentence
    assert len(plane.asked) == 2


async def test_polls_of_many_tasks_ask_one_question_at_a_time_with_a_pause_after_it() -> None:
    plane, clock = Plane(), FakeClock()
    reasons, views = reasons_of(plane, clock), [plane.waiting(number) for number in range(1, 101)]
    plane.gate.clear()
    first = asyncio.create_task(reasons.of(views[0]))
    await asyncio.sleep(0)
    assert [await reasons.of(view) for view in views[1:]] == [""] * 99
    plane.gate.set()
    assert await first
    assert [await reasons.of(view) for view in views[1:]] == [""] * 99
    assert len(plane.asked) == 1
    await clock.advance(0.05)
    assert await reasons.of(views[1])
    assert len(plane.asked) == 2


@pytest.mark.parametrize("refusal", [NotFoundError(), UnavailableError()])
async def test_a_poll_is_answered_where_no_reason_can_be_found(refusal: ArcrayError) -> None:
    plane, clock = Plane(), FakeClock()
    plane.refusal = refusal
    assert await reasons_of(plane, clock).of(plane.waiting(1)) == ""


async def test_a_question_that_is_given_up_lets_others_be_asked() -> None:
    plane, clock = Plane(), FakeClock()
    reasons, view = reasons_of(plane, clock), plane.waiting(1)
    plane.gate.clear()
    poll = asyncio.create_task(reasons.of(view))
    await asyncio.sleep(0)
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)
    plane.gate.set()
    await clock.advance(0.05)
    assert await reasons.of(view)


async def test_nobody_asks_about_what_does_not_wait() -> None:
    plane = Plane()
    assert await reasons_of(plane, FakeClock()).of(replace(plane.waiting(1), phase=Phase.RUNNING)) == ""
    assert plane.asked == []


async def test_what_is_remembered_is_bounded() -> None:
    plane, clock = Plane(), FakeClock()
    reasons, view = reasons_of(plane, clock), plane.waiting(1)
    assert await reasons.of(view)
    other = plane.waiting(2)
    for number in range(1_100):
        await clock.advance(0.05 if number else 0.06)
        await reasons.of(replace(other, spec=replace(other.spec, id=a_workload(10_000 + number).id)))
    assert len(reasons._known) <= 1_024
