"""Reports reach the cluster in order, each until it was taken, whatever becomes of single calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arcray.core.commands import Command, ReportEnd, ReportModels, ReportTelemetry
from arcray.core.errors import ArcrayError, ResourceExhaustedError, UnavailableError
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.workload import Phase
from arcray.node.reporter import Report, Reporter
from arcray.testing.builders import node_id
from arcray.testing.clock import FakeClock
from arcray.testing.node_fakes import FakePlane

BUSY = ResourceExhaustedError("too much to do")


class SlowPlane(FakePlane):
    """A plane whose calls stay in flight until the test answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[list[Any]]] = []

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        self.calls.append(tuple(commands))
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        return await answer


class Rig:
    def __init__(self) -> None:
        self.plane = SlowPlane()
        self.clock = FakeClock()
        self.reporter = Reporter(plane=self.plane, clock=self.clock, refused=lambda *_: None, replied=lambda _: None)
        self.reporter.resume(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reporter.run_forever())
        try:
            async with asyncio.timeout(5):
                yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self.reporter.report(an_end(number))
        await self.settle()

    async def answer_call(self, number: int, reply: Any = None) -> None:
        """Answers every command of a call alike, or fails the call."""
        if isinstance(reply, UnavailableError):
            self.plane.waiting[number].set_exception(reply)
        else:
            self.plane.waiting[number].set_result([reply] * len(self.plane.calls[number]))
        await self.settle()

    async def settle(self) -> None:
        """Lets everything run that waits for no time."""
        await self.clock.advance(0)

    @property
    def told(self) -> list[list[Report]]:
        return [list(call) for call in self.plane.calls]  # type: ignore[arg-type]  # a reporter tells nothing else


def an_end(number: int, epoch: int = 1) -> ReportEnd:
    return ReportEnd(
        node_id=node_id(1), epoch=epoch, workload_id=WorkloadId(str(number)), attempt=1, phase=Phase.SUCCEEDED
    )


def models(slots: int) -> ReportModels:
    return ReportModels(node_id=node_id(1), epoch=1, models=(ModelSlots(model_id=ModelId("echo"), slots=slots),))


def a_reading() -> ReportTelemetry:
    return ReportTelemetry(node_id=node_id(1), epoch=1, telemetry=None)


async def test_one_call_is_in_flight_and_what_happens_meanwhile_goes_together() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1, 2)
        await rig.end(3)
        await rig.end(4)
        assert rig.told == [[an_end(1), an_end(2)]]
        await rig.answer_call(0)
        assert rig.told[1:] == [[an_end(3), an_end(4)]]


async def test_what_is_told_again_comes_before_what_is_new_and_in_its_order() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1, 2)
        await rig.end(3)
        await rig.answer_call(0, UnavailableError("away"))
        assert len(rig.told) == 1, "it rests first"
        await rig.clock.advance(0.1)
        assert rig.told[1:] == [[an_end(1), an_end(2), an_end(3)]]


async def test_a_newer_list_of_models_takes_the_place_of_one_that_was_not_taken() -> None:
    rig = Rig()
    async with rig.running():
        rig.reporter.models(models(1))
        await rig.settle()
        rig.reporter.models(models(2))
        await rig.answer_call(0, BUSY)
        await rig.clock.advance(0.1)
        assert rig.told[1:] == [[models(2)]]


async def test_ends_are_unacknowledged_until_their_call_was_taken() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1)
        await rig.end(2)
        await rig.answer_call(0, BUSY)
        works = {work.workload_id for work in rig.reporter.waiting_ends()}
        assert (works, len(rig.reporter)) == ({"1", "2"}, 2)
        drained = asyncio.ensure_future(rig.reporter.drained())
        await rig.clock.advance(0.1)
        await rig.answer_call(1)
        await rig.settle()
        assert (drained.done(), rig.reporter.waiting_ends()) == (True, ())


async def test_the_rest_doubles_while_calls_fail_and_begins_anew_when_one_is_taken() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1)
        for number, rest_s in enumerate((0.1, 0.2, 0.4)):
            await rig.answer_call(number, BUSY)
            await rig.clock.advance(rest_s * 0.9)
            assert len(rig.told) == number + 1
            await rig.clock.advance(rest_s * 0.1 + 0.001)
            assert len(rig.told) == number + 2
        await rig.answer_call(3)
        await rig.end(2)
        await rig.answer_call(4, BUSY)
        await rig.clock.advance(0.101)
        assert rig.told[5:] == [[an_end(2)]]


async def test_a_list_of_models_that_was_not_taken_is_told_again() -> None:
    rig = Rig()
    async with rig.running():
        rig.reporter.models(models(1))
        rig.reporter.telemetry(a_reading())
        await rig.settle()
        await rig.answer_call(0, BUSY)
        await rig.clock.advance(0.1)
        assert rig.told[1:] == [[models(1), a_reading()]]


async def test_nothing_is_told_while_paused_and_what_waits_has_the_next_epoch() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1)
        rig.reporter.pause()
        await rig.end(2)
        await rig.answer_call(0)
        await rig.settle()
        assert len(rig.told) == 1
        rig.reporter.resume(2)
        await rig.settle()
        assert rig.told[1:] == [[an_end(2, epoch=2)]]


async def test_a_pause_in_the_rest_before_a_repetition_holds() -> None:
    rig = Rig()
    async with rig.running():
        await rig.end(1)
        await rig.answer_call(0, BUSY)
        rig.reporter.pause()
        await rig.clock.advance(1)
        assert len(rig.told) == 1
        rig.reporter.resume(2)
        await rig.settle()
        assert rig.told[1:] == [[an_end(1, epoch=2)]]
