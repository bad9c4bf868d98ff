"""Preemption, reservations and gangs through a whole control plane with simulated nodes, and across its restarts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.commands import ReleaseReservation, Reservable, Reserve, SubmitWorkload
from arcray.core.errors import NoCandidatesError, NotFoundError
from arcray.core.events import Topic
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, ReservationId, WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import GetReservation, GetWorkload
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority, WorkloadSpec, WorkloadView
from arcray.testing.builders import T0, a_workload
from arcray.testing.clock import FakeClock
from arcray.testing.faults import check_memory_is_the_rows, folded, journalled, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode

POLICY = ClusterPolicy(restart_backoff=timedelta(milliseconds=5))
WHOLE_NODE = Demand(cpu_milli=8000)
ENDLESS = Script(end=None)


def low(number: int) -> WorkloadSpec:
    return a_workload(number, demand=WHOLE_NODE, priority=Priority.BACKGROUND, preemptible=True)


def high(number: int) -> WorkloadSpec:
    return a_workload(number, demand=WHOLE_NODE, priority=Priority.CRITICAL)


def a_member(number: int, size: int = 2, **fields: Any) -> WorkloadSpec:
    return a_workload(number, demand=WHOLE_NODE, gang=Gang(id="g", size=size, layout=Layout.SPREAD), **fields)


def a_place(number: int = 1, slices: int = 1, ttl_s: float = 300.0) -> Reserve:
    return Reserve(
        reservation_id=ReservationId(f"r{number}"),
        account=AccountId("local"),
        slices=(Reservable(demand=WHOLE_NODE),) * slices,
        layout=Layout.SPREAD,
        ttl_s=ttl_s,
    )


def endless_once() -> Callable[[StartWorkload], Script]:
    """The first attempt of a preemptible workload runs until it is stopped; everything else ends well at once."""
    return lambda order: ENDLESS if order.workload_id == low(1).id and order.attempt == 1 else Script()


async def view_of(cluster: InProcessPlane, workload_id: WorkloadId) -> WorkloadView:
    view = await cluster.plane.query(GetWorkload(workload_id=workload_id))
    assert isinstance(view, WorkloadView)
    return view


async def state_of(cluster: InProcessPlane, reservation_id: ReservationId) -> ReservationState:
    reservation = await cluster.plane.query(GetReservation(reservation_id=reservation_id))
    assert isinstance(reservation, Reservation)
    return reservation.state


async def until_phase(cluster: InProcessPlane, workload_id: WorkloadId, *phases: Phase) -> WorkloadView:
    changes = cluster.plane.events(frozenset({Topic.WORKLOADS}))
    async for _ in changes:
        view = await view_of(cluster, workload_id)
        if view.phase in phases:
            await changes.aclose()
            return view
    raise AssertionError("a subscription ends only when it is closed")


async def check_rows(cluster: InProcessPlane, state_dir: Path) -> None:
    """Memory, rows and the fold of the events are the same."""
    path = state_dir / "arcray.db"
    await check_memory_is_the_rows(cluster.plane, path)
    assert folded(journalled(path)) == stored_workloads(path)


async def test_work_is_preempted_and_runs_again_afterwards(tmp_path: Path) -> None:
    node = SimulatedNode(script=endless_once())
    async with in_process_plane(nodes=[node], policy=POLICY, state_dir=tmp_path) as cluster:
        await cluster.ask(SubmitWorkload(spec=low(1)))
        await until_phase(cluster, low(1).id, Phase.RUNNING)
        await cluster.ask(SubmitWorkload(spec=high(2)))
        assert (await cluster.finished(high(2).id)).phase is Phase.SUCCEEDED
        done = await cluster.finished(low(1).id)
        assert (done.phase, done.attempt, done.restarts, done.preemptions) == (Phase.SUCCEEDED, 2, 0, 1)
        await check_rows(cluster, tmp_path)


async def test_a_preemption_is_seen_through_by_a_plane_that_starts_anew(tmp_path: Path) -> None:
    node = SimulatedNode(script=endless_once())
    async with in_process_plane(nodes=[node], policy=POLICY, state_dir=tmp_path) as before:
        await before.ask(SubmitWorkload(spec=low(1)))
        await until_phase(before, low(1).id, Phase.RUNNING)
        node.silent = True  # the stop does not arrive
        await before.ask(SubmitWorkload(spec=high(2)))
        await until_phase(before, low(1).id, Phase.STOPPING)
        kept = (await view_of(before, high(2).id)).claim
        await check_rows(before, tmp_path)
    assert kept is not None
    node.silent = False
    async with in_process_plane(nodes=[], policy=POLICY, state_dir=tmp_path) as after:
        assert (await view_of(after, high(2).id)).claim == kept
        with pytest.raises(NoCandidatesError):
            await after.ask(a_place())
        await after.attach(node)
        assert (await after.finished(high(2).id)).phase is Phase.SUCCEEDED
        assert (await after.finished(low(1).id)).phase is Phase.SUCCEEDED
        await check_rows(after, tmp_path)


async def test_a_reservation_is_held_by_a_plane_that_starts_anew(tmp_path: Path) -> None:
    nodes = [SimulatedNode(f"sim-{number}") for number in (1, 2)]
    async with in_process_plane(nodes=nodes, state_dir=tmp_path) as before:
        held: Reservation = await before.ask(a_place(slices=2))
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        assert await after.plane.query(GetReservation(reservation_id=held.id)) == held
        with pytest.raises(NoCandidatesError):
            await after.ask(a_place(2))
        for node in nodes:
            await after.attach(node)
        await after.ask(SubmitWorkload(spec=a_workload(1, demand=WHOLE_NODE, reservation_id=held.id)))
        assert (await after.finished(a_workload(1).id)).phase is Phase.SUCCEEDED
        await after.ask(a_place(3))  # what was taken is free again
        released: Reservation = await after.ask(ReleaseReservation(reservation_id=held.id))
        assert released.state is ReservationState.RELEASED
        await check_rows(after, tmp_path)


async def test_a_reservation_that_memory_has_let_go_of_is_read_from_its_row(tmp_path: Path) -> None:
    policy = ClusterPolicy(keep_reservations=0)
    async with in_process_plane(policy=policy, state_dir=tmp_path) as cluster:
        await cluster.ask(a_place())
        await cluster.ask(ReleaseReservation(reservation_id=ReservationId("r1")))
        found = await cluster.plane.query(GetReservation(reservation_id=ReservationId("r1")))
        assert isinstance(found, Reservation)
        assert found.state is ReservationState.RELEASED
        with pytest.raises(NotFoundError):
            await cluster.plane.query(GetReservation(reservation_id=ReservationId("r1"), account=AccountId("other")))


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_reservation_that_memory_has_let_go_of_is_not_granted_again(tmp_path: Path, *, restarted: bool) -> None:
    policy = ClusterPolicy(keep_reservations=0)
    async with in_process_plane(policy=policy, state_dir=tmp_path) as cluster:
        held: Reservation = await cluster.ask(a_place())
        released: Reservation = await cluster.ask(ReleaseReservation(reservation_id=held.id))
        if not restarted:
            assert await cluster.ask(a_place()) == released
    async with in_process_plane(policy=policy, state_dir=tmp_path) as cluster:
        assert await cluster.ask(a_place()) == released
        assert await cluster.ask(ReleaseReservation(reservation_id=held.id)) == released
        await check_rows(cluster, tmp_path)


async def test_a_reservation_expires_by_itself(tmp_path: Path) -> None:
    async with in_process_plane(state_dir=tmp_path) as cluster:
        changes = cluster.plane.events(frozenset({Topic.RESERVATIONS}))
        await anext(changes)
        await cluster.ask(a_place(ttl_s=0.01))
        seen: list[ev.Event] = []
        async for batch in changes:
            seen += batch.events
            if any(isinstance(event, ev.ReservationEnded) for event in seen):
                break
        await changes.aclose()
        assert [type(event) for event in seen] == [ev.ReservationGranted, ev.ReservationEnded]
        await cluster.ask(a_place(2))


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
async def test_a_reservation_has_its_time_whatever_the_clock_is_set_to(tmp_path: Path, jump_s: float) -> None:
    clock = FakeClock(T0)
    async with in_process_plane(state_dir=tmp_path, clock=clock) as cluster:
        place = await cluster.ask(a_place(ttl_s=10.0))
        clock.jump(jump_s)
        await clock.advance(9)
        assert await state_of(cluster, place.id) is ReservationState.ACTIVE
        await clock.advance(2)
        assert await state_of(cluster, place.id) is ReservationState.EXPIRED


async def test_time_goes_on_for_a_plane_whose_clock_is_behind_its_rows(tmp_path: Path) -> None:
    async with in_process_plane(state_dir=tmp_path, clock=FakeClock(T0 + timedelta(days=1))) as cluster:
        place = await cluster.ask(a_place(ttl_s=10.0))
    clock = FakeClock(T0)
    async with in_process_plane(state_dir=tmp_path, clock=clock) as cluster:
        await clock.advance(9)
        assert await state_of(cluster, place.id) is ReservationState.ACTIVE
        await clock.advance(2)
        assert await state_of(cluster, place.id) is ReservationState.EXPIRED


async def test_a_gang_one_of_whose_nodes_refuses_starts_again_as_a_whole(tmp_path: Path) -> None:
    def picky(order: StartWorkload) -> Script:
        if order.attempt == 1:
            return Script.refusal("full") if order.workload_id == a_member(2).id else ENDLESS
        return Script()

    nodes = [SimulatedNode(f"sim-{number}", script=picky) for number in (1, 2)]
    async with in_process_plane(nodes=nodes, policy=POLICY, state_dir=tmp_path) as cluster:
        for number in (1, 2):
            await cluster.ask(SubmitWorkload(spec=a_member(number)))
        for number in (1, 2):
            done = await cluster.finished(a_member(number).id)
            assert (done.phase, done.attempt, done.restarts) == (Phase.SUCCEEDED, 2, 0)
        await check_rows(cluster, tmp_path)


async def test_a_gang_is_completed_after_a_restart_of_the_plane(tmp_path: Path) -> None:
    nodes = [SimulatedNode(f"sim-{number}") for number in (1, 2)]
    async with in_process_plane(nodes=nodes, state_dir=tmp_path) as before:
        await before.ask(SubmitWorkload(spec=a_member(1, created_at=before.clock.now())))
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        for node in nodes:
            await after.attach(node)
        assert (await view_of(after, a_member(1).id)).phase is Phase.PENDING
        await after.ask(SubmitWorkload(spec=a_member(2, created_at=after.clock.now())))
        for number in (1, 2):
            assert (await after.finished(a_member(number).id)).phase is Phase.SUCCEEDED
        await check_rows(after, tmp_path)
