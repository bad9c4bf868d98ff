"""Write-ahead truth: what a failure at any step between applying and answering leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from arcray.control.journal import FencedError, Journal, Records
from arcray.control.plane import Plane
from arcray.core import events as ev
from arcray.core.commands import Command, RegisterModel, ReportTelemetry, StopWorkload, SubmitWorkload
from arcray.core.errors import ArcrayError, InternalError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.orders import Order, StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import EventBatch
from arcray.core.queries import GetStats, GetWorkload, ListNodes, ListWorkloads, NodePage, WorkloadPage
from arcray.core.workload import Phase, WorkloadView
from arcray.testing.builders import a_model, a_workload, an_inference
from arcray.testing.faults import (
    AwaitPoints,
    FailPoints,
    Failure,
    check_memory_is_the_rows,
    folded,
    journalled,
    stored_workloads,
)
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.gated_model import GatedModel

EVERYTHING = frozenset(Topic)


@asynccontextmanager
async def a_plane(tmp_path: Path, url: str) -> AsyncIterator[InProcessPlane]:
    node = SimulatedNode(models={"echo": lambda value: value}, script=lambda _: Script(end=None))
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=url) as cluster:
        yield cluster


async def collect(cluster: InProcessPlane, seen: list[Event]) -> None:
    async for batch in cluster.plane.events(EVERYTHING):
        seen += batch.events


async def read_to_the_end(reader: AsyncIterator[EventBatch]) -> None:
    async with asyncio.timeout(5):
        async for _ in reader:
            pass


async def look_around(cluster: InProcessPlane, url: str, lies: list[str]) -> None:
    """Asks all the time, and notes every workload that is shown before it is on disk."""

    def look(views: Sequence[WorkloadView]) -> None:
        on_disk = stored_workloads(url)
        lies.extend(
            f"{view.spec.id} is {view.phase}"
            for view in views
            if view.spec.id not in on_disk or (view.phase.terminal and not on_disk[view.spec.id].phase.terminal)
        )

    def hear(answered: object) -> None:
        look([answered] if isinstance(answered, WorkloadView) else [])

    while True:
        for number in (1, 2):
            cluster.plane.answer_soon(GetWorkload(workload_id=a_workload(number).id), hear)
        try:
            page = await cluster.plane.query(ListWorkloads())
        except ArcrayError:
            continue
        finally:
            await asyncio.sleep(0)
        assert isinstance(page, WorkloadPage)
        look(page.workloads)


async def use_it(cluster: InProcessPlane) -> dict[str, object]:
    """Submits, stops and asks, all at once; returns the reply to every command."""
    plane = cluster.plane
    commands: dict[str, Command] = {
        "submit 1": SubmitWorkload(spec=a_workload(1)),
        "submit 2": SubmitWorkload(spec=a_workload(2)),
        "stop 1": StopWorkload(workload_id=a_workload(1).id, grace_s=0),
        "model": RegisterModel(model=a_model("other")),
        "request": SubmitWorkload(spec=a_workload(3, an_inference(input=b"1"), waiting=True)),
    }
    replies: list[object] = []
    for command in commands.values():
        replies += plane.begin([command])
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        return dict(zip(commands, await asyncio.gather(*replies), strict=True))  # type: ignore[call-overload]


async def scenario(
    tmp_path: Path,
    url: str,
    fail_at: Callable[[int], bool],
    points_of: Callable[[Plane], FailPoints | AwaitPoints] = FailPoints,
) -> FailPoints | AwaitPoints:
    """Uses a plane whose journal fails at some step, and checks that nothing untrue was ever said."""
    async with a_plane(tmp_path, url) as cluster:
        points = points_of(cluster.plane)
        seen: list[Event] = []
        lies: list[str] = []
        watchers = [asyncio.create_task(collect(cluster, seen)), asyncio.create_task(look_around(cluster, url, lies))]
        await asyncio.sleep(0)
        with points.arm(fail_at):
            replies = await use_it(cluster)
        await cluster.ask(SubmitWorkload(spec=a_workload(9))) if not points.failed else await works_again(cluster)
        for watcher in watchers:
            watcher.cancel()
        await asyncio.wait(watchers)
        await check_memory_is_the_rows(cluster.plane, url)
        stored, happened = stored_workloads(url), journalled(url)
        for name, reply in replies.items():
            assert not isinstance(reply, ArcrayError) or isinstance(reply, UnavailableError), (name, reply)
        acknowledged = {name for name, reply in replies.items() if not isinstance(reply, ArcrayError)}
        for number in (1, 2):
            assert f"submit {number}" not in acknowledged or a_workload(number).id in stored
        if "request" in acknowledged:
            assert stored[a_workload(3).id].phase is Phase.SUCCEEDED
        assert "model" not in acknowledged or ev.ModelRegistered in {type(event) for event in happened}
        placed = {(event.workload_id, event.attempt) for event in happened if isinstance(event, ev.WorkloadPlaced)}
        ordered = {
            (order.workload_id, order.attempt) for order in cluster.nodes[0].orders if isinstance(order, StartWorkload)
        }
        assert ordered <= placed
        assert [event for event in map(as_stored, seen) if event.durable and event not in happened] == []
        assert lies == []
    return points


def as_stored(event: Event) -> Event:
    if isinstance(event, ev.WorkloadFinished) and event.result is not None and event.spec is not None:
        return replace(event, result=replace(event.result, output=None))
    return event


async def works_again(cluster: InProcessPlane) -> None:
    async with asyncio.timeout(10):
        await cluster.plane._writer.commits.idle()
        await cluster.ask(SubmitWorkload(spec=a_workload(9)))


async def test_a_failure_at_any_step_leaves_no_untruth(tmp_path: Path, new_database: Callable[[], str]) -> None:
    """Runs the scenario once for every step that it has; takes some seconds."""
    step, failures = 0, 0
    while True:
        step += 1
        points = await scenario(tmp_path / str(step), new_database(), lambda taken, at=step: taken == at)  # type: ignore[misc]  # bound now
        if not points.failed:
            break
        failures += points.failed
    assert failures >= 15  # begin, fence, insert, upserts and commit, before and after each


@pytest.mark.parametrize("how", Failure)
async def test_a_failure_at_any_await_leaves_no_untruth(
    tmp_path: Path, new_database: Callable[[], str], how: Failure
) -> None:
    """Runs the scenario once for every await of the journal, alone and with the one or two that follow it."""
    failed = 0
    for length in (1, 2, 3):
        step = 0
        while True:
            step += 1
            points = await scenario(
                tmp_path / f"{length}-{step}",
                new_database(),
                lambda taken, first=step, last=step + length - 1: first <= taken <= last,  # type: ignore[misc]  # bound now
                lambda plane: AwaitPoints(plane, how),
            )
            if not points.failed:
                break
            failed += points.failed
    assert failed >= 8


@pytest.mark.parametrize("first", [1, 4, 8, 12])
async def test_a_disk_that_stays_full_for_a_while_leaves_no_untruth(
    tmp_path: Path, database_url: str, first: int
) -> None:
    await scenario(tmp_path, database_url, lambda taken: first <= taken < first + 12)


async def test_what_is_answered_soon_is_told_with_the_commit_or_not_at_all(tmp_path: Path, database_url: str) -> None:
    """Whoever is told nothing asks in the other way; so does who asks for what memory has not."""
    async with a_plane(tmp_path, database_url) as cluster:
        plane = cluster.plane
        told: list[object] = []
        first, second = a_workload(1), a_workload(2)
        assert not plane.answer_soon(GetWorkload(workload_id=first.id), told.append)
        assert not plane.answer_soon(ListNodes(), told.append)
        (reply,) = plane.begin([SubmitWorkload(spec=first)])
        assert plane.answer_soon(GetWorkload(workload_id=first.id), told.append)
        assert told == []
        await reply
        (view,) = told
        assert isinstance(view, WorkloadView)
        with FailPoints(plane).arm(lambda _: True):
            (reply,) = plane.begin([SubmitWorkload(spec=second)])
            assert plane.answer_soon(GetWorkload(workload_id=second.id), told.append)
            assert isinstance(await reply, UnavailableError)
        assert told[1:] == [None]


async def test_while_nothing_can_be_written_reads_and_heartbeats_go_on(tmp_path: Path, database_url: str) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        plane, node = cluster.plane, cluster.nodes[0]
        await cluster.ask(SubmitWorkload(spec=a_workload(1)))
        points = FailPoints(plane)
        # Reading for the rebuild works; every write and every commit of one fails.
        with points.arm(lambda _: True), pytest.raises(UnavailableError, match="nothing is accepted"):
            await cluster.ask(SubmitWorkload(spec=a_workload(2)))
        writing = plane._journal
        broken = asyncio.Event()

        async def no_space(records: Records | None = None) -> None:
            _ = records
            broken.set()
            raise UnavailableError("the database failed: disk full")

        writing.probe = no_space  # type: ignore[method-assign]  # a disk that is full for writes only
        writing.append = no_space  # type: ignore[method-assign]
        (reply,) = await plane.submit([SubmitWorkload(spec=a_workload(3))])
        assert isinstance(reply, UnavailableError)
        async with asyncio.timeout(5):
            await broken.wait()
            view = await plane.query(GetWorkload(workload_id=a_workload(1).id))
        assert isinstance(view, WorkloadView)
        assert isinstance(await plane.query(GetStats()), object)
        (heard,) = await plane.submit([ReportTelemetry(node_id=node.id, epoch=node.epoch)])
        assert not isinstance(heard, ArcrayError)
        (refused,) = await plane.submit([StopWorkload(workload_id=a_workload(1).id)])
        assert isinstance(refused, UnavailableError)
        assert "disk full" in refused.message
        refusal = plane.refusal
        del writing.probe, writing.append
        await works_again(cluster)
        assert (refusal is not None, plane.refusal) == (True, None)
        await check_memory_is_the_rows(plane, database_url)


async def test_a_request_that_gets_its_place_while_memory_is_put_right_is_said_to_get_it_once(
    tmp_path: Path, database_url: str
) -> None:
    node = SimulatedNode(models={})
    policy = ClusterPolicy(routing_patience=timedelta(seconds=60))
    async with in_process_plane(nodes=[node], policy=policy, state_dir=tmp_path, database_url=database_url) as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1, an_inference(input=b"1"))))
        points = FailPoints(cluster.plane)
        with points.arm(lambda step: step == 1):
            node.load("echo", lambda value: value)
            view = await cluster.finished(a_workload(1).id)
        assert (points.failed, view.phase) == (True, Phase.SUCCEEDED)
        placed = [event.attempt for event in journalled(database_url) if isinstance(event, ev.WorkloadPlaced)]
        assert placed == [1]
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_a_request_in_flight_at_a_failure_is_answered_and_its_late_report_ignored(
    tmp_path: Path, database_url: str
) -> None:
    slow = GatedModel()
    node = SimulatedNode(models={"slow": slow.answer})
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as cluster:
        request = a_workload(1, an_inference(model_id="slow", input=b"1"), waiting=True)
        (reply,) = cluster.plane.begin([SubmitWorkload(spec=request)])
        await node.delivered(1)
        points = FailPoints(cluster.plane)
        with points.arm(lambda step: step == 1):
            (other,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(2))])
        assert isinstance(other, UnavailableError)
        assert isinstance(await asyncio.wait_for(reply, 5), UnavailableError)
        await works_again(cluster)
        slow.gate.set()
        again = a_workload(3, an_inference(model_id="slow", input=b"2"), waiting=True)
        view = await cluster.ask(SubmitWorkload(spec=again))
        assert view.phase is Phase.SUCCEEDED
        assert request.id not in stored_workloads(database_url)
        await check_memory_is_the_rows(cluster.plane, database_url)


class Witness:
    """Stands before a node, and notes how each request that it is handed stands on disk."""

    def __init__(self, node: SimulatedNode, database: Path | str) -> None:
        self.seen: list[tuple[str, Phase | None]] = []
        self._node = node
        self._database = database

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        stored = stored_workloads(self._database)
        rows = [(order.workload_id, stored.get(order.workload_id)) for order in orders]
        self.seen += [(workload_id, None if row is None else row.phase) for workload_id, row in rows]
        await self._node.deliver(epoch, orders)


async def test_a_request_that_gets_its_place_by_a_rebuild_is_ordered_once_that_is_on_disk(
    tmp_path: Path, database_url: str
) -> None:
    slow = GatedModel()
    node = SimulatedNode(models={"slow": slow.answer}, slots=1)
    patient = ClusterPolicy(routing_patience=timedelta(seconds=60))
    async with in_process_plane(nodes=[node], policy=patient, state_dir=tmp_path, database_url=database_url) as cluster:
        witness = Witness(node, database_url)
        cluster.driver.add(node.id, witness)
        awaited = a_workload(1, an_inference(model_id="slow", input=b"1"), waiting=True)
        (_,) = cluster.plane.begin([SubmitWorkload(spec=awaited)])  # takes the slot, and is forgotten by the rebuild
        kept = a_workload(2, an_inference(model_id="slow", input=b"2"))
        await cluster.ask(SubmitWorkload(spec=kept))
        with FailPoints(cluster.plane).arm(lambda step: step == 1):
            await cluster.plane.submit([SubmitWorkload(spec=a_workload(3))])
        await works_again(cluster)
        slow.gate.set()
        assert (await cluster.finished(kept.id)).phase is Phase.SUCCEEDED
    assert {phase for workload_id, phase in witness.seen if workload_id == kept.id} == {Phase.PLACED}


async def test_no_attempt_of_a_request_is_given_twice_by_memories_that_were_lost(
    tmp_path: Path, database_url: str
) -> None:
    """A node executes an attempt once: one that was ordered again under its number would never end."""
    node = SimulatedNode(models={"echo": lambda value: value})
    node.deaf = True
    request = SubmitWorkload(spec=a_workload(1, an_inference(input=b"1"), waiting=True))

    async def requests(count: int) -> list[int]:
        while len(found := [each.attempt for each in node.orders if each.workload_id == request.spec.id]) < count:
            await node.delivered(len(node.orders) + 1)
        return found

    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as cluster:
        cluster.plane.begin([request])
        await requests(1)
        with FailPoints(cluster.plane).arm(lambda step: step == 1):
            await cluster.plane.submit([SubmitWorkload(spec=a_workload(2))])
        await works_again(cluster)
        cluster.plane.begin([request])  # its sender asks again
        await requests(2)
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as cluster:
        await cluster.attach(node)
        cluster.plane.begin([request])
        attempts = await requests(3)
    assert len(set(attempts)) == 3
    assert attempts == sorted(attempts)


async def test_models_and_readings_of_nodes_survive_a_rebuild(tmp_path: Path, database_url: str) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        before = await cluster.plane.query(ListNodes())
        with FailPoints(cluster.plane).arm(lambda step: step == 1):
            await cluster.plane.submit([SubmitWorkload(spec=a_workload(1))])
        await works_again(cluster)
        after = await cluster.plane.query(ListNodes())
        assert isinstance(before, NodePage)
        assert isinstance(after, NodePage)
        assert after.nodes[0].models == before.nodes[0].models != ()
        request = a_workload(5, an_inference(input=b"7"), waiting=True)
        assert (await cluster.ask(SubmitWorkload(spec=request))).result.output == b"7"


async def test_readers_are_told_that_a_rebuild_may_have_cost_them_events(tmp_path: Path, database_url: str) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        reader = cluster.plane.events(EVERYTHING)
        await anext(reader)
        with FailPoints(cluster.plane).arm(lambda step: step == 1):
            await cluster.plane.submit([SubmitWorkload(spec=a_workload(1))])
        await works_again(cluster)
        async with asyncio.timeout(5):
            async for batch in reader:
                if batch.gap:
                    break


async def test_a_bug_in_a_rule_costs_one_command_and_what_was_not_on_disk(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1)))
        state = cluster.plane._writer.cluster.state
        state.workloads[a_workload(1).id].phase = Phase.SUCCEEDED  # what no event led to

        def trip(event: Event) -> None:
            raise AssertionError(f"tripped over {event}")

        state.apply = trip  # type: ignore[method-assign]  # a bug, of which there is none to be had
        (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(2))])
        assert isinstance(reply, InternalError | UnavailableError)
        await works_again(cluster)
        view = await cluster.plane.query(GetWorkload(workload_id=a_workload(1).id))
        assert isinstance(view, WorkloadView)
        assert view.phase is not Phase.SUCCEEDED
        await check_memory_is_the_rows(cluster.plane, database_url)
        assert "tripped" in caplog.text


async def test_a_scheduler_that_was_replaced_says_so_and_ends(tmp_path: Path, database_url: str) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        reader = cluster.plane.events(EVERYTHING)
        await anext(reader)
        later = Journal(database_url)
        await later.open()
        (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(1))])
        assert isinstance(reply, FencedError)
        with pytest.raises(FencedError):
            await read_to_the_end(reader)
        with pytest.raises(FencedError):
            await cluster.plane.query(GetStats())
        await later.close()
    assert stored_workloads(database_url) == {}


async def test_folding_the_events_gives_the_stored_workloads(tmp_path: Path, database_url: str) -> None:
    async with a_plane(tmp_path, database_url) as cluster:
        await use_it(cluster)
        cluster.nodes[0].finish(a_workload(2).id)
        await cluster.finished(a_workload(2).id)
        await cluster.nodes[0].crash()
        await cluster.ask(SubmitWorkload(spec=a_workload(4)))
        await cluster.plane._writer.commits.idle()
        stored = stored_workloads(database_url)
        assert folded(journalled(database_url)) == stored
        assert {workload.phase for workload in stored.values()} >= {Phase.SUCCEEDED, Phase.STOPPED}
        await check_memory_is_the_rows(cluster.plane, database_url)
