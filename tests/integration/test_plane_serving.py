"""How a plane answers, schedules, tells and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arcray.config import SchedulerSettings
from arcray.core import events as ev
from arcray.core.commands import ReportEnd, ReportTelemetry, SetNodeScheduling, StopWorkload, Submitted, SubmitWorkload
from arcray.core.errors import ArcrayError, NotFoundError, ResourceExhaustedError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.node import Health, NodeView
from arcray.core.orders import RunInference, StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import EventBatch
from arcray.core.queries import GetNode, GetStats, GetWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Phase, WorkloadView
from arcray.testing.builders import a_workload, an_inference
from arcray.testing.clock import FakeClock
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode


def echoing(**fields: object) -> SimulatedNode:
    return SimulatedNode(models={"echo": lambda value: value}, **fields)  # type: ignore[arg-type]  # by name


def a_request(number: int = 1, text: bytes = b"1", model: str = "echo") -> SubmitWorkload:
    return SubmitWorkload(spec=a_workload(number, an_inference(model_id=model, input=text), waiting=True))


async def events_until(cluster: InProcessPlane, topics: set[Topic], last: type) -> list[Event]:
    seen: list[Event] = []
    async with asyncio.timeout(5):
        async for batch in cluster.plane.events(frozenset(topics)):
            seen += batch.events
            if any(isinstance(event, last) for event in batch.events):
                return seen
    raise AssertionError("unreachable")


async def read_to_the_end(reader: AsyncIterator[EventBatch]) -> None:
    async with asyncio.timeout(5):
        async for _ in reader:
            pass


class TestARequest:
    async def test_is_answered_with_its_output(self) -> None:
        async with in_process_plane(nodes=[echoing()]) as cluster:
            view = await cluster.ask(a_request(text=b'{"a": [1]}'))
        assert (view.phase, view.result.output) == (Phase.SUCCEEDED, b'{"a": [1]}')

    async def test_that_fails_says_why(self) -> None:
        def broken(_: object) -> object:
            raise ValueError("no digits in it")

        async with in_process_plane(nodes=[SimulatedNode(models={"echo": broken})]) as cluster:
            view = await cluster.ask(a_request())
        assert (view.phase, view.message) == (Phase.FAILED, "no digits in it")

    async def test_without_a_node_is_rejected_when_its_patience_ends(self) -> None:
        clock = FakeClock()
        async with in_process_plane(nodes=[], clock=clock) as cluster:
            (reply,) = cluster.plane.begin([a_request()])
            await clock.advance(0.6)
            assert not reply.done()
            await clock.advance(0.2)
            view = await asyncio.wait_for(reply, 5)
        assert isinstance(view, WorkloadView)
        assert view.phase is Phase.REJECTED

    @pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
    async def test_has_its_patience_whatever_the_clock_is_set_to(self, jump_s: float) -> None:
        clock = FakeClock()
        async with in_process_plane(nodes=[], clock=clock) as cluster:
            (reply,) = cluster.plane.begin([a_request()])
            clock.jump(jump_s)
            await clock.advance(0.6)
            assert not reply.done()
            await clock.advance(0.2)
            view = await asyncio.wait_for(reply, 5)
        assert isinstance(view, WorkloadView)
        assert view.phase is Phase.REJECTED

    async def test_submitted_twice_is_run_once_and_answered_twice(self) -> None:
        node = echoing()
        async with in_process_plane(nodes=[node]) as cluster:
            first, second = await cluster.plane.submit([a_request(), a_request()])
            third = await cluster.ask(a_request())
        assert first == second == third
        assert len([order for order in node.orders if isinstance(order, RunInference)]) == 1

    async def test_whose_caller_has_gone_harms_nobody(self) -> None:
        async with in_process_plane(nodes=[echoing()]) as cluster:
            gone, here = cluster.plane.begin([a_request(1), a_request(2)])
            gone.cancel()
            assert isinstance(await asyncio.wait_for(here, 5), WorkloadView)

    async def test_that_no_rule_ends_is_answered_by_the_clock(self) -> None:
        clock = FakeClock()
        node = SimulatedNode(models={"echo": lambda value: value})
        async with in_process_plane(nodes=[node], clock=clock) as cluster:
            cluster.plane._writer.waiters._term_s = 1.0
            node.silent = True
            (reply,) = cluster.plane.begin([a_request()])
            await clock.advance(1.1)
            error = await asyncio.wait_for(reply, 5)
        assert isinstance(error, ArcrayError)
        assert error.code == "DEADLINE_EXCEEDED"

    async def test_dispatched_to_a_freed_slot_does_not_wait_for_the_commit_that_freed_it(self) -> None:
        node = echoing(slots=1)
        async with in_process_plane(nodes=[node]) as cluster:
            replies = await asyncio.wait_for(cluster.plane.submit([a_request(n) for n in range(1, 20)]), 5)
        assert {reply.phase for reply in replies if isinstance(reply, WorkloadView)} == {Phase.SUCCEEDED}


class TestWork:
    async def test_is_placed_by_a_round_when_a_node_comes(self) -> None:
        async with in_process_plane(nodes=[]) as cluster:
            replies = await cluster.plane.submit([SubmitWorkload(spec=a_workload(number)) for number in range(1, 30)])
            assert {reply.phase for reply in replies if isinstance(reply, Submitted)} == {Phase.PENDING}
            await cluster.attach(SimulatedNode())
            for number in range(1, 30):
                assert (await cluster.finished(a_workload(number).id)).phase is Phase.SUCCEEDED

    async def test_of_a_lost_node_fails_and_its_orders_are_dropped(self) -> None:
        clock = FakeClock()
        node = SimulatedNode(script=lambda _: Script(end=None))
        async with in_process_plane(nodes=[node], clock=clock) as cluster:
            node.silent = True
            await cluster.ask(SubmitWorkload(spec=a_workload(1)))
            assert cluster.plane._dispatch.waiting(node.id) == 1
            await clock.advance(200)
            view = await cluster.plane.query(GetNode(node_id=node.id))
            assert isinstance(view, NodeView)
            assert view.health is Health.LOST
            workload = await cluster.plane.query(GetWorkload(workload_id=a_workload(1).id))
            assert isinstance(workload, WorkloadView)
            assert workload.phase is Phase.FAILED
            assert cluster.plane._dispatch.waiting(node.id) == 0

    async def test_that_is_stopped_ends_on_its_node(self) -> None:
        node = SimulatedNode(script=lambda _: Script(end=None))
        async with in_process_plane(nodes=[node]) as cluster:
            await cluster.ask(SubmitWorkload(spec=a_workload(1)))
            await cluster.ask(StopWorkload(workload_id=a_workload(1).id, grace_s=0.5))
            assert (await cluster.finished(a_workload(1).id)).phase is Phase.STOPPED
        assert [type(order) for order in node.orders] == [StartWorkload, StopAttempt]

    async def test_that_a_node_refuses_goes_elsewhere(self) -> None:
        full = SimulatedNode("full", script=lambda _: Script.refusal("no room"))
        clock = FakeClock()
        async with in_process_plane(nodes=[full], clock=clock) as cluster:
            await cluster.ask(SubmitWorkload(spec=a_workload(1)))
            await clock.advance(0)
            await cluster.ask(SetNodeScheduling(node_id=full.id, cordoned=True))
            await cluster.attach(SimulatedNode("free"))
            await clock.advance(2)
            view = await cluster.finished(a_workload(1).id)
        assert (view.phase, view.attempt, view.restarts) == (Phase.SUCCEEDED, 2, 0)


class TestEvents:
    async def test_come_in_the_order_applied_whether_durable_or_not(self) -> None:
        async with in_process_plane(nodes=[echoing()]) as cluster:
            reading = asyncio.create_task(
                events_until(cluster, {Topic.INFERENCE, Topic.WORKLOADS}, ev.WorkloadFinished)
            )
            await asyncio.sleep(0)
            await cluster.ask(a_request())
            seen = await reading
        assert [type(event) for event in seen] == [
            ev.WorkloadSubmitted,
            ev.WorkloadPlaced,
            ev.WorkloadPhaseChanged,
            ev.WorkloadFinished,
        ]
        assert isinstance(seen[-1], ev.WorkloadFinished)
        assert seen[-1].result is not None
        assert seen[-1].result.output == b"1"

    async def test_of_requests_and_of_other_work_are_told_apart(self) -> None:
        async with in_process_plane(nodes=[echoing()]) as cluster:
            reading = asyncio.create_task(events_until(cluster, {Topic.WORKLOADS}, ev.WorkloadFinished))
            await asyncio.sleep(0)
            await cluster.ask(a_request(1))
            await cluster.ask(SubmitWorkload(spec=a_workload(2)))
            seen = await reading
        assert {event.workload_id for event in seen if isinstance(event, ev.WorkloadPlaced)} == {a_workload(2).id}

    async def test_that_core_does_not_know_can_be_published(self) -> None:
        async with in_process_plane() as cluster:
            reading = asyncio.create_task(events_until(cluster, {Topic.LOGS}, ev.LogAppended))
            await asyncio.sleep(0)
            grown = ev.LogAppended(workload_id=a_workload(1).id, size_bytes=3, at=cluster.clock.now())
            cluster.plane.publish([grown])
            assert await reading == [grown]

    async def test_state_read_after_the_first_batch_misses_nothing(self) -> None:
        async with in_process_plane(nodes=[]) as cluster:
            accepted = cluster.plane.begin([SubmitWorkload(spec=a_workload(1))])  # applied, not yet on disk
            reader = cluster.plane.events(frozenset({Topic.WORKLOADS}))
            await anext(reader)
            assert await cluster.plane.query(GetWorkload(workload_id=a_workload(1).id))
            await asyncio.gather(*accepted)


class TestLimits:
    async def test_more_commands_than_may_wait_are_refused(self) -> None:
        async with in_process_plane(nodes=[], settings=SchedulerSettings(max_commands=3)) as cluster:
            replies = [
                reply
                for number in range(1, 6)
                for reply in cluster.plane.begin([SubmitWorkload(spec=a_workload(number))])
            ]
            answers = await asyncio.gather(*replies)
            refused = [isinstance(answer, ResourceExhaustedError) for answer in answers]
            assert refused == [False, False, False, True, True]
            assert isinstance(await cluster.ask(SubmitWorkload(spec=a_workload(9))), Submitted)

    async def test_more_commands_in_one_submission_than_may_wait_are_refused(self) -> None:
        async with in_process_plane(nodes=[], settings=SchedulerSettings(max_commands=3)) as cluster:
            answers = await cluster.plane.submit([SubmitWorkload(spec=a_workload(number)) for number in range(1, 6)])
        refused = [isinstance(answer, ResourceExhaustedError) for answer in answers]
        assert refused == [False, False, False, True, True]

    async def test_a_start_that_was_never_handed_over_is_heard_of_however_many_wait(self) -> None:
        node = SimulatedNode()
        async with in_process_plane(nodes=[node], settings=SchedulerSettings(max_commands=1)) as cluster:
            node.deaf = True
            reading = asyncio.create_task(events_until(cluster, {Topic.WORKLOADS}, ev.WorkloadPlaced))
            await asyncio.sleep(0)
            await cluster.ask(SubmitWorkload(spec=a_workload(1)))
            await reading
            report = ReportEnd(
                node_id=node.id,
                epoch=node.epoch,
                workload_id=a_workload(1).id,
                attempt=1,
                phase=Phase.FAILED,
                message="its queue is full",
                refused=True,
            )
            reading = asyncio.create_task(events_until(cluster, {Topic.WORKLOADS}, ev.WorkloadRequeued))
            await asyncio.sleep(0)
            (waiting,) = cluster.plane.begin([SubmitWorkload(spec=a_workload(2, demand=Demand(gpus=64)))])
            cluster.plane._report(report)  # what the dispatcher calls
            assert isinstance(await waiting, Submitted)
            assert any(isinstance(event, ev.WorkloadRequeued) for event in await reading)

    async def test_more_callers_than_may_wait_are_refused(self) -> None:
        async with in_process_plane(nodes=[], settings=SchedulerSettings(max_commands=1)) as cluster:
            first, second = cluster.plane.begin([a_request(1)]) + cluster.plane.begin([a_request(2)])
            assert isinstance(await asyncio.wait_for(second, 5), ResourceExhaustedError)
            assert isinstance(await asyncio.wait_for(first, 5), WorkloadView)

    async def test_a_large_submission_is_written_in_several_transactions(self) -> None:
        async with in_process_plane(nodes=[], settings=SchedulerSettings(commit_batch=10)) as cluster:
            replies = await cluster.plane.submit([SubmitWorkload(spec=a_workload(number)) for number in range(1, 95)])
            assert all(isinstance(reply, Submitted) for reply in replies)


class TestTheEnd:
    async def test_what_was_accepted_is_answered_before_it(self, tmp_path: Path) -> None:
        async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
            accepted = cluster.plane.begin([SubmitWorkload(spec=a_workload(number)) for number in range(1, 50)])
        assert all(isinstance(reply.result(), Submitted) for reply in accepted)
        async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
            assert len(cluster.plane._writer.cluster.state.workloads) == 49

    async def test_who_still_waits_is_told(self) -> None:
        node = SimulatedNode(models={"echo": lambda value: value})
        async with in_process_plane(nodes=[node]) as cluster:
            node.silent = True
            (reply,) = cluster.plane.begin([a_request()])
            reader = cluster.plane.events(frozenset(Topic))
            await anext(reader)
        assert isinstance(reply.result(), UnavailableError)
        with pytest.raises(UnavailableError, match="stopped"):
            await read_to_the_end(reader)

    async def test_nothing_is_taken_or_answered_after_it(self) -> None:
        async with in_process_plane() as cluster:
            pass
        (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(1))])
        assert isinstance(reply, UnavailableError)
        with pytest.raises(UnavailableError):
            await cluster.plane.query(GetStats())
        with pytest.raises(UnavailableError):
            await anext(cluster.plane.events(frozenset(Topic)))
        await cluster.plane.stop()


async def test_refusals_come_in_the_order_of_the_commands() -> None:
    async with in_process_plane() as cluster:
        replies = await cluster.plane.submit(
            [
                StopWorkload(workload_id=a_workload(1).id),
                SubmitWorkload(spec=a_workload(1)),
                ReportTelemetry(node_id=cluster.nodes[0].id, epoch=9),
            ]
        )
    assert [getattr(reply, "code", None) for reply in replies] == ["NOT_FOUND", None, "STALE_REPORT"]


async def test_a_query_that_fails_says_so() -> None:
    async with in_process_plane() as cluster:
        with pytest.raises(NotFoundError):
            await cluster.plane.query(GetWorkload(workload_id=a_workload(1).id))


class WorkingClock(FakeClock):
    """Shows that whatever is done takes time."""

    def monotonic(self) -> float:
        self._elapsed += 0.001
        return super().monotonic()


async def test_a_round_that_found_no_place_is_followed_by_a_rest_in_which_requests_are_answered() -> None:
    clock = WorkingClock()
    async with in_process_plane(nodes=[echoing()], policy=ClusterPolicy(round_decisions=1), clock=clock) as cluster:
        await cluster.plane.submit(
            [SubmitWorkload(spec=a_workload(n, demand=Demand(cpu_milli=10**9 + n))) for n in range(10, 20)]
        )
        view = await cluster.ask(a_request())
        assert view.phase is Phase.SUCCEEDED
        assert cluster.plane._writer.cluster.needs_round
        await clock.advance(1.0)
        assert not cluster.plane._writer.cluster.needs_round


async def test_work_that_cannot_be_placed_does_not_keep_the_scheduler_busy() -> None:
    async with in_process_plane() as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1, demand=Demand(cpu_milli=10**9))))
        await cluster.plane._writer.commits.idle()
        await asyncio.sleep(0)
        assert not cluster.plane._writer.cluster.needs_round
        assert not cluster.plane._round_wanted.is_set()


@pytest.mark.parametrize("policy", [ClusterPolicy(round_batch=3)])
async def test_a_round_is_bounded_and_the_next_goes_on(policy: ClusterPolicy) -> None:
    async with in_process_plane(nodes=[], policy=policy) as cluster:
        await cluster.plane.submit([SubmitWorkload(spec=a_workload(number)) for number in range(1, 9)])
        node = await cluster.attach(SimulatedNode(script=lambda _: Script(end=None)))
        await node.delivered(8)
