"""A link to a worker, with a channel that answers as a test says, and a clock that it moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from arcray.core.commands import DetachNode, ReportEnd, ReportPhase
from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    DeadlineExceededError,
    NotFoundError,
    ResourceExhaustedError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.ports import ControlPlane
from arcray.core.resources import NO_DEMAND, Allocation, Gpu, GpuShare
from arcray.core.workload import AttemptRecord, Phase, Program, WorkloadView
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words, allocation_of
from arcray.facades.hivemind.worker_begun import BegunWork
from arcray.facades.hivemind.worker_channel import Answer, Certainty
from arcray.facades.hivemind.worker_link import Limits, WorkerLink
from arcray.testing.builders import T0, a_workload, node_id
from arcray.testing.clock import FakeClock

YES, NO = Answer(Certainty.ACCEPTED), Answer(Certainty.REFUSED, "busy")
GONE, PERHAPS = Answer(Certainty.UNREACHED, "gone"), Answer(Certainty.UNKNOWN, "late")
WORK = a_workload(1).id
NAME = f"arcray-{WORK}"
START = StartWorkload(
    workload_id=WORK, attempt=1, payload=Program(blob="b"), demand=NO_DEMAND, allocation=Allocation(), owner="ana"
)
STOP = StopAttempt(workload_id=WORK, attempt=1, grace_s=1.0)


class Seen:
    """Wakes whoever waits for a call."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def note(self) -> None:
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Programs are packed in a thread, so that turns of the loop are no measure."""
        async with asyncio.timeout(5.0):
            while not holds():
                await self._changed.wait()
                self._changed.clear()


@dataclass
class FakeChannel:
    """Answers in order; the last answer again and again."""

    seen: Seen
    executions: list[Answer | Exception] = field(default_factory=lambda: [YES])
    stops: list[Answer] = field(default_factory=lambda: [YES])
    reachable: bool = True
    calls: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    words: Words = field(default_factory=dict)

    async def reach(self, timeout_s: float) -> bool:
        _ = timeout_s
        return self.reachable

    async def execute(self, request: pool.ExecuteTaskRequest, timeout_s: float, words: Words) -> Answer:
        _ = timeout_s
        self.words = words
        self._called(f"execute {request.task_id}")
        await self.gate.wait()
        answer = self.executions.pop(0) if len(self.executions) > 1 else self.executions[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        _ = timeout_s
        self._called(f"stop {task_id}")
        return self.stops.pop(0) if len(self.stops) > 1 else self.stops[0]

    async def broken(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self._called("close")

    def _called(self, call: str) -> None:
        self.calls.append(call)
        self.seen.note()


@dataclass
class FakePlane:
    """Remembers what it is told; answers errors while there are any."""

    seen: Seen
    told: list[Any] = field(default_factory=list)
    errors: list[ArcrayError] = field(default_factory=list)
    blob: bytes | None = b"print(1)"
    work: WorkloadView | None = None
    unanswered: list[ArcrayError] = field(default_factory=list)

    @property
    def blobs(self) -> FakePlane:
        return self

    async def get(self, key: str) -> bytes:
        if self.blob is None:
            raise NotFoundError(f"no {key}")
        return self.blob

    async def submit(self, commands: Sequence[Any]) -> list[Any]:
        self.told += commands
        self.seen.note()
        return [self.errors.pop(0) if self.errors else None]

    async def query(self, query: Any) -> Any:
        if self.unanswered:
            self.seen.note()
            raise self.unanswered.pop(0)
        if self.work is None:
            raise NotFoundError(str(query))
        return self.work


@dataclass
class Rig:
    link: WorkerLink
    channel: FakeChannel
    plane: FakePlane
    clock: FakeClock
    seen: Seen
    running: asyncio.Task[None]

    async def told(self, count: int = 1) -> list[Any]:
        """What the cluster was told, once it was told so much."""
        await self.seen.until(lambda: len(self.plane.told) >= count)
        return self.plane.told

    async def called(self, *calls: str) -> None:
        """Waits until the worker was called so, and no otherwise."""
        await self.seen.until(lambda: len(self.channel.calls) >= len(calls))
        assert self.channel.calls == list(calls)


@asynccontextmanager
async def linked(orders: int = 8, blob: bytes | None = b"print(1)", **channel: Any) -> AsyncIterator[Rig]:
    """A link under epoch 3, whose worker accepts everything unless a test says otherwise."""
    seen, clock = Seen(), FakeClock()
    worker, plane = FakeChannel(seen, **channel), FakePlane(seen, blob=blob)
    worker.gate.set()
    limits = Limits(orders=orders, dial_timeout_s=1.0)
    link = WorkerLink(node_id(1), cast("ControlPlane", plane), clock, worker, limits=limits, begun=BegunWork())
    link.attached(3)
    running = asyncio.create_task(link.run())
    yield Rig(link, worker, plane, clock, seen, running)
    link.close()
    await asyncio.wait_for(running, 5.0)
    assert worker.calls[-1] == "close"


def an_end(attempt: int, node: NodeId, **fields: Any) -> AttemptRecord:
    return AttemptRecord(attempt=attempt, node_id=node, placed_at=T0, started_at=None, ended_at=T0, **fields)


def at_attempt(attempt: int, *history: AttemptRecord) -> WorkloadView:
    return WorkloadView(
        spec=a_workload(1, START.payload), phase=Phase.PLACED, attempt=attempt, restarts=0, node_id=node_id(1),
        allocation=None, message="", result=None, placed_at=T0, started_at=None, finished_at=None, ports=(),
        attempts=history,
    )  # fmt: skip


def ends(told: Sequence[Any]) -> list[tuple[Phase, bool, str]]:
    return [(each.phase, each.refused, each.message) for each in told if isinstance(each, ReportEnd)]


async def test_what_a_worker_accepts_is_running() -> None:
    async with linked() as rig:
        await rig.link.deliver(3, [START])
        (report,) = await rig.told()
        assert report == ReportPhase(node_id=node_id(1), epoch=3, workload_id=WORK, attempt=1, phase=Phase.RUNNING)
        await rig.called(f"execute {NAME}")


async def test_a_worker_of_arcrays_hears_what_its_task_may_use() -> None:
    allocation = Allocation(cpu_milli=500, gpus=(GpuShare(index=0, memory_bytes=7, whole=False),))
    async with linked() as rig:
        await rig.link.deliver(3, [replace(START, allocation=allocation)])
        await rig.told()
        assert allocation_of(rig.channel.words, [Gpu(index=0, memory_bytes=7)]) == allocation


@pytest.mark.parametrize("answer", [NO, GONE])
async def test_what_certainly_does_not_run_goes_elsewhere_at_once(answer: Answer) -> None:
    async with linked(executions=[answer]) as rig:
        await rig.link.deliver(3, [START])
        assert ends(await rig.told()) == [(Phase.FAILED, True, answer.message)]
        await rig.called(f"execute {NAME}")


async def test_what_may_run_goes_elsewhere_only_once_its_end_was_answered() -> None:
    async with linked(executions=[PERHAPS], stops=[PERHAPS, YES]) as rig:
        await rig.link.deliver(3, [START])
        await rig.seen.until(lambda: len(rig.channel.calls) == 2)
        assert not rig.plane.told
        await rig.clock.advance(0.5)
        assert ends(await rig.told()) == [(Phase.FAILED, True, "late")]
        await rig.called(f"execute {NAME}", f"stop {NAME}", f"stop {NAME}")


async def test_a_worker_that_never_answers_is_let_go() -> None:
    async with linked(executions=[PERHAPS], stops=[PERHAPS]) as rig:
        await rig.link.deliver(3, [START])
        await rig.seen.until(lambda: len(rig.channel.calls) == 2)
        await rig.clock.advance(0.5)
        told = await rig.told()
        assert told == [DetachNode(node_id=node_id(1), epoch=3, reason="late")]
        await asyncio.wait_for(rig.running, 5.0)
        assert rig.link.closed
        with pytest.raises(UnavailableError):
            await rig.link.deliver(3, [START])


SLOW = Answer(Certainty.UNKNOWN, "slow", slow=True)


@pytest.mark.parametrize("slow_stops", [18, 19])
async def test_a_worker_that_is_there_and_slow_is_kept_for_longer_and_not_for_ever(slow_stops: int) -> None:
    async with linked(executions=[SLOW], stops=[*[SLOW] * slow_stops, YES]) as rig:
        await rig.link.deliver(3, [START])
        while not rig.plane.told:
            await rig.clock.advance(10.0)
        if slow_stops < 19:
            assert ends(rig.plane.told) == [(Phase.FAILED, True, "slow")]
        else:
            assert rig.plane.told == [DetachNode(node_id=node_id(1), epoch=3, reason="slow")]


async def test_a_worker_that_is_gone_is_noticed_after_the_first_call() -> None:
    async with linked(executions=[GONE], reachable=False) as rig:
        await rig.link.deliver(3, [START])
        await rig.told()
        for _ in range(3):
            await rig.clock.advance(1.0)
        told = await rig.told(2)
        assert told[-1] == DetachNode(node_id=node_id(1), epoch=3, reason="its worker cannot be reached")


async def test_a_stop_is_told_once_the_worker_has_answered() -> None:
    async with linked(stops=[NO]) as rig:
        await rig.link.deliver(3, [STOP])
        assert ends(await rig.told()) == [(Phase.STOPPED, False, "stopped on request")]
        await rig.called(f"stop {NAME}")


async def test_what_is_stopped_while_it_is_dialled_is_stopped_after_it() -> None:
    async with linked() as rig:
        rig.channel.gate.clear()
        await rig.link.deliver(3, [START])
        await rig.called(f"execute {NAME}")
        await rig.link.deliver(3, [STOP])
        await rig.clock.advance(0.0)
        await rig.called(f"execute {NAME}")
        rig.channel.gate.set()
        told = await rig.told(2)
        assert (told[0].phase, told[1].phase) == (Phase.RUNNING, Phase.STOPPED)


async def test_what_is_stopped_before_it_is_dialled_never_reaches_the_worker() -> None:
    async with linked() as rig:
        rig.channel.gate.clear()
        other = replace(START, workload_id=a_workload(2).id)
        await rig.link.deliver(3, [other, START, STOP])
        assert ends(await rig.told()) == [(Phase.STOPPED, False, "stopped before it started")]
        rig.channel.gate.set()
        await rig.told(2)
        await rig.called(f"execute arcray-{other.workload_id}")


async def test_a_later_attempt_starts_under_another_id_after_the_end_of_the_earlier_one_there() -> None:
    async with linked() as rig:
        rig.plane.work = at_attempt(4, an_end(1, node_id(1)), an_end(2, node_id(1)), an_end(3, node_id(2)))
        await rig.link.deliver(3, [replace(START, attempt=4)])
        await rig.told()
        await rig.called(f"stop {NAME}.arcray-2", f"execute {NAME}.arcray-4")


async def test_what_no_worker_has_begun_is_asked_of_another_under_the_same_id() -> None:
    async with linked() as rig:
        rig.plane.work = at_attempt(2, an_end(1, node_id(1), refused=True))
        await rig.link.deliver(3, [replace(START, attempt=2)])
        await rig.told()
        await rig.called(f"execute {NAME}")


async def test_what_may_have_begun_and_was_given_back_is_asked_under_another_id() -> None:
    async with linked(executions=[PERHAPS]) as rig:
        await rig.link.deliver(3, [START])
        (end,) = await rig.told()
        assert (end.refused, end.begun) == (True, True)
        rig.plane.work = at_attempt(2, an_end(1, node_id(1), refused=end.refused, begun=end.begun))
        rig.channel.executions = [YES]
        await rig.link.deliver(3, [replace(START, attempt=2)])
        await rig.told(2)
        await rig.called(f"execute {NAME}", f"stop {NAME}", f"stop {NAME}", f"execute {NAME}.arcray-2")


@pytest.mark.parametrize("attempt", [None, 3])
async def test_a_start_that_another_attempt_has_overtaken_is_void(attempt: int | None) -> None:
    async with linked() as rig:
        rig.plane.work = None if attempt is None else at_attempt(attempt)
        await rig.link.deliver(3, [replace(START, attempt=2), replace(START, workload_id=a_workload(2).id)])
        await rig.told()
        await rig.called(f"execute arcray-{a_workload(2).id}")


async def test_an_attempt_is_stopped_under_its_own_id() -> None:
    async with linked() as rig:
        rig.plane.work = at_attempt(2, an_end(1, node_id(2)))
        rig.link.forget(WORK, 1)
        await rig.link.deliver(3, [replace(STOP, attempt=2)])
        await rig.told()
        await rig.called(f"stop {NAME}", f"stop {NAME}.arcray-2")


@pytest.mark.parametrize("error", [UnavailableError(), DeadlineExceededError(), ResourceExhaustedError()])
async def test_an_attempt_is_stopped_once_the_cluster_says_which_it_is(error: ArcrayError) -> None:
    async with linked() as rig:
        rig.plane.unanswered = [error]
        await rig.link.deliver(3, [STOP])
        await rig.seen.until(lambda: not rig.plane.unanswered)
        await rig.clock.advance(1.0)
        assert ends(await rig.told()) == [(Phase.STOPPED, False, "stopped on request")]


async def test_what_the_cluster_wants_no_more_is_ended_there() -> None:
    async with linked() as rig:
        rig.plane.errors = [ConflictError("it has ended")]
        await rig.link.deliver(3, [START])
        await rig.called(f"execute {NAME}", f"stop {NAME}")


async def test_an_order_that_fails_by_our_fault_takes_no_other_with_it() -> None:
    async with linked() as rig:
        rig.channel.executions = [LookupError("a bug of ours")]
        await rig.link.deliver(3, [START])
        assert ends(await rig.told()) == [(Phase.FAILED, False, "the gateway failed; its log has the details")]
        rig.channel.executions = [YES]
        await rig.link.deliver(3, [replace(START, workload_id=a_workload(2).id)])
        assert (await rig.told(2))[1].phase is Phase.RUNNING


async def test_reports_are_told_again_until_they_are_heard() -> None:
    async with linked() as rig:
        rig.plane.errors = [UnavailableError("away")]
        await rig.link.deliver(3, [START])
        await rig.told()
        await rig.clock.advance(1.0)
        first, second = await rig.told(2)
        assert first == second


async def test_a_link_whose_worker_is_attached_elsewhere_ends() -> None:
    async with linked() as rig:
        rig.plane.errors = [StaleReportError("epoch 4", field="epoch")]
        await rig.link.deliver(3, [START])
        await asyncio.wait_for(rig.running, 5.0)
        assert rig.link.closed


async def test_a_report_under_an_epoch_that_was_renewed_is_told_under_the_new_one() -> None:
    async with linked() as rig:
        rig.channel.gate.clear()
        await rig.link.deliver(3, [START])
        await rig.called(f"execute {NAME}")
        rig.link.attached(4)
        rig.channel.gate.set()
        (report,) = await rig.told()
        assert report.epoch == 4


async def test_a_program_that_is_gone_has_failed_wherever_it_would_go() -> None:
    async with linked(blob=None) as rig:
        await rig.link.deliver(3, [START])
        ((phase, refused, _),) = ends(await rig.told())
        assert (phase, refused) == (Phase.FAILED, False)


async def test_a_link_takes_all_orders_or_none() -> None:
    async with linked(orders=2) as rig:
        with pytest.raises(StaleReportError):
            await rig.link.deliver(2, [START])
        with pytest.raises(UnavailableError):
            await rig.link.deliver(4, [START])
        with pytest.raises(UnavailableError, match="has 2 orders"):
            await rig.link.deliver(3, [START, STOP, replace(START, workload_id=a_workload(2).id)])
        assert len(rig.link) == 0
