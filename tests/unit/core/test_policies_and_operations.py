"""Where the rules of operators meet preemption, gangs and reservations: one eviction, one sum of what is held."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.commands import DrainNode, RegisterModel, Reservable, Reserve, SetNodeScheduling, SetQuota
from arcray.core.errors import ConflictError, InvalidArgumentError, ResourceExhaustedError
from arcray.core.explanation import WaitsFor, WorkloadExplanation
from arcray.core.gang import Gang
from arcray.core.ids import AccountId, ReservationId, WorkloadId
from arcray.core.node import LeaseTerms
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ExplainWorkload, GetQuota, QuotaView
from arcray.core.quota import Quota, Usage
from arcray.core.resources import Demand
from arcray.core.simulation import image, simulate
from arcray.core.what_if import Simulate
from arcray.core.workload import ModelServer, Origin, Phase, Priority, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import a_capacity, a_model, a_node, a_workload, node_id
from arcray.testing.world import World

ANA, BO = AccountId("ana"), AccountId("bo")
NODE, HALF = Demand(cpu_milli=8000), Demand(cpu_milli=4000)
AGAIN = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=1)


@pytest.fixture
def world() -> World:
    return World(ClusterPolicy())


def of(account: AccountId, number: int, payload: Any = None, **fields: Any) -> WorkloadSpec:
    return a_workload(number, payload, origin=Origin(facade="rest", account=account), **({"demand": HALF} | fields))


def member(number: int, size: int = 2, **fields: Any) -> WorkloadSpec:
    return of(ANA, number, gang=Gang(id="g", size=size), **({"demand": NODE} | fields))


def key(number: int) -> WorkloadId:
    return a_workload(number).id


def phases(world: World, *numbers: int) -> list[Phase]:
    return [world.workload(key(number)).phase for number in numbers]


def usage(world: World, account: AccountId) -> Usage:
    view = world.cluster.answer(GetQuota(account=account), world.now)
    assert isinstance(view, QuotaView)
    return view.usage


def reserve(world: World, *demands: Demand) -> None:
    slices = tuple(Reservable(demand=demand) for demand in demands)
    world.handle(Reserve(reservation_id=ReservationId("r"), account=ANA, slices=slices, ttl_s=60.0))


def run_gang(world: World, **fields: Any) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
    for number in (1, 2):
        world.submit(member(number, **fields))
    for number in (1, 2):
        world.report(world.workload(key(number)), Phase.RUNNING)


def test_a_gang_of_which_a_member_is_drained_moves_as_a_whole(world: World) -> None:
    run_gang(world, restart=AGAIN)
    drained = world.workload(key(1)).node_id
    assert drained is not None
    world.handle(DrainNode(node_id=drained))
    assert phases(world, 1, 2) == [Phase.STOPPING, Phase.RUNNING]
    world.report(world.workload(key(1)), Phase.STOPPED)
    other = world.workload(key(2)).eviction
    assert other is not None
    assert (other.cause, other.restart, other.fails) == (Cause.GANG, False, False)
    world.report(world.workload(key(2)), Phase.STOPPED)
    world.attach(a_node(3))
    world.run_round()
    assert phases(world, 1, 2) == [Phase.PLACED, Phase.PLACED]
    assert [world.workload(key(number)).restarts for number in (1, 2)] == [0, 0]
    world.cluster.state.check_invariants()


def test_a_member_whose_gang_cannot_start_again_is_waited_for(world: World) -> None:
    run_gang(world, restart=AGAIN)
    world.succeed(world.workload(key(1)))
    drained = world.workload(key(2)).node_id
    assert drained is not None
    world.handle(DrainNode(node_id=drained))
    assert phases(world, 1, 2) == [Phase.SUCCEEDED, Phase.RUNNING]
    world.succeed(world.workload(key(2)))
    drain = world.cluster.state.nodes[drained].drain
    assert drain is not None
    assert (phases(world, 2), drain.done_at) == ([Phase.SUCCEEDED], world.now)


def test_a_member_whose_gang_cannot_start_again_is_a_dead_letter_at_the_deadline(world: World) -> None:
    run_gang(world, restart=AGAIN)
    world.succeed(world.workload(key(1)))
    drained = world.workload(key(2)).node_id
    assert drained is not None
    world.handle(DrainNode(node_id=drained, deadline_s=1.0))
    world.later(1)
    work = world.workload(key(2))
    world.report(work, Phase.STOPPED)
    assert (work.phase, work.message, work.dead) == (Phase.FAILED, "its node was drained before it ended", True)


def test_a_member_that_is_being_moved_has_failed_once_another_one_has_ended(world: World) -> None:
    run_gang(world, restart=AGAIN)
    drained = world.workload(key(2)).node_id
    assert drained is not None
    world.handle(DrainNode(node_id=drained))
    world.succeed(world.workload(key(1)))
    world.report(world.workload(key(2)), Phase.STOPPED)
    assert phases(world, 1, 2) == [Phase.SUCCEEDED, Phase.FAILED]
    assert "cannot start again" in world.workload(key(2)).message


def test_a_member_that_its_node_refuses_has_failed_once_another_one_has_ended(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(member(number))
    world.succeed(world.workload(key(1)))
    world.report(world.workload(key(2)), Phase.FAILED, refused=True)
    assert phases(world, 1, 2) == [Phase.SUCCEEDED, Phase.FAILED]


def test_a_drained_member_that_ends_well_while_its_gang_starts_again_does_so_too(world: World) -> None:
    run_gang(world, restart=AGAIN)
    first, second = world.workload(key(1)), world.workload(key(2))
    assert first.node_id is not None
    world.handle(DrainNode(node_id=first.node_id))
    world.report(second, Phase.FAILED)
    world.succeed(first)
    assert phases(world, 1, 2) == [Phase.PENDING, Phase.PENDING]


def test_a_drain_that_has_to_end_a_member_fails_its_gang(world: World) -> None:
    run_gang(world)
    drained = world.workload(key(1)).node_id
    assert drained is not None
    world.handle(DrainNode(node_id=drained, deadline_s=0.0))
    world.report(world.workload(key(1)), Phase.STOPPED)
    world.report(world.workload(key(2)), Phase.STOPPED)
    assert phases(world, 1, 2) == [Phase.FAILED, Phase.FAILED]
    assert world.workload(key(1)).message == "its node was drained before it ended"


def test_a_copy_of_a_model_in_a_gang_is_moved_and_not_replaced(world: World) -> None:
    world.handle(RegisterModel(model=a_model()))
    world.attach(a_node(1))
    world.submit(of(ANA, 1, ModelServer(model=a_model()), gang=Gang(id="g", size=1), restart=AGAIN))
    world.report(world.workload(key(1)), Phase.RUNNING)
    copy = world.workload(key(1))
    world.handle(DrainNode(node_id=node_id(1)))
    assert world.cluster.state.copies.replacement_of(copy.id) is None
    assert copy.phase is Phase.STOPPING


def test_the_first_cause_of_an_end_stays(world: World) -> None:
    world.attach()
    world.submit(of(ANA, 1, demand=NODE, priority=Priority.BACKGROUND, preemptible=True, restart=AGAIN))
    world.submit(of(BO, 2, demand=NODE, priority=Priority.CRITICAL))
    world.run_round()
    events = world.handle(DrainNode(node_id=node_id(1))).events
    assert not [event for event in events if isinstance(event, ev.WorkloadEvicted)]
    eviction = world.workload(key(1)).eviction
    assert eviction is not None
    assert (eviction.cause, eviction.by) == (Cause.PREEMPTED, key(2))


def test_nobody_is_preempted_for_work_over_quota(world: World) -> None:
    world.attach()
    world.handle(SetQuota(account=BO, quota=Quota(workloads=1)))
    world.submit(of(BO, 1, priority=Priority.CRITICAL))
    world.submit(of(ANA, 2, priority=Priority.BACKGROUND, preemptible=True))
    world.submit(of(BO, 3, priority=Priority.CRITICAL))
    world.run_round()
    assert phases(world, 1, 2, 3) == [Phase.PLACED, Phase.PLACED, Phase.PENDING]


def test_a_place_that_is_kept_counts_as_held(world: World) -> None:
    world.attach()
    world.submit(of(ANA, 1, demand=NODE, priority=Priority.BACKGROUND, preemptible=True))
    world.submit(of(BO, 2, demand=NODE, priority=Priority.CRITICAL))
    world.run_round()
    assert world.workload(key(2)).claim is not None
    assert usage(world, BO) == Usage(workloads=1, cpu_milli=8000)
    world.cluster.state.check_invariants()


def test_a_gang_starts_once_its_account_may_hold_all_of_it(world: World) -> None:
    for number in (1, 2, 3):
        world.attach(a_node(number))
    world.handle(SetQuota(account=ANA, quota=Quota(workloads=2, cpu_milli=16_000)))
    world.submit(of(ANA, 3))
    for number in (1, 2):
        world.submit(member(number))
    world.run_round()
    assert phases(world, 1, 2, 3) == [Phase.PENDING, Phase.PENDING, Phase.PLACED]
    found = world.cluster.answer(ExplainWorkload(workload_id=key(2)), world.now)
    assert isinstance(found, WorkloadExplanation)
    assert (found.waits_for, [excess.resource for excess in found.excesses]) == (WaitsFor.QUOTA, ["workloads", "cpu"])
    world.succeed(world.workload(key(3)))
    world.run_round()
    assert phases(world, 1, 2) == [Phase.PLACED, Phase.PLACED]
    world.cluster.state.check_invariants()


def test_a_gang_that_could_never_be_held_is_refused_at_the_member_that_is_too_many(world: World) -> None:
    world.handle(SetQuota(account=ANA, quota=Quota(cpu_milli=12_000)))
    world.submit(member(1))
    with pytest.raises(InvalidArgumentError) as refusal:
        world.submit(member(2))
    assert refusal.value.field == "demand.cpu"


def test_members_that_wait_count_as_waiting(world: World) -> None:
    world.handle(SetQuota(account=ANA, quota=Quota(pending=2)))
    for number in (1, 2):
        world.submit(member(number, size=2))
    with pytest.raises(ResourceExhaustedError, match="2 workloads waiting"):
        world.submit(of(ANA, 3))
    world.cluster.state.check_invariants()


def test_a_reservation_counts_as_held_and_is_refused_beyond_the_quota(world: World) -> None:
    world.attach()
    world.handle(SetQuota(account=ANA, quota=Quota(workloads=1, cpu_milli=6_000)))
    with pytest.raises(ResourceExhaustedError, match="cpu") as refusal:
        reserve(world, HALF, HALF)
    assert refusal.value.field == "slices"
    reserve(world, HALF)
    assert usage(world, ANA) == Usage(cpu_milli=4_000)
    world.submit(of(ANA, 1))
    assert phases(world, 1) == [Phase.PENDING]
    world.submit(of(ANA, 2, reservation_id=ReservationId("r")))
    assert phases(world, 2) == [Phase.PLACED]
    assert usage(world, ANA) == Usage(workloads=1, cpu_milli=4_000)
    world.cluster.state.check_invariants()


def test_what_is_reserved_on_a_cordoned_gpu_is_not_taken(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=1)))
    reserve(world, Demand(gpus=1))
    world.handle(SetNodeScheduling(node_id=node_id(1), cordoned=True, gpus=frozenset({0})))
    with pytest.raises(ConflictError):
        world.submit(of(ANA, 1, demand=Demand(gpus=1), reservation_id=ReservationId("r")))


def test_a_simulation_has_the_gangs_claims_and_reservations_of_the_pool(world: World) -> None:
    world.attach(a_node(1))
    reserve(world, HALF)
    world.submit(of(ANA, 1, priority=Priority.BACKGROUND, preemptible=True, restart=AGAIN))
    for number in (2, 3):
        world.submit(member(number))
    world.submit(of(BO, 4, priority=Priority.CRITICAL))
    world.run_round()
    assert world.workload(key(4)).claim is not None
    taken = image(world.cluster.state, world.now)
    joining = tuple(a_node(number) for number in (8, 9))
    found = simulate(taken, world.cluster.policy, Simulate(add_nodes=joining), lambda: None)
    assert set(found.started) == {key(2), key(3), key(4)}
    assert phases(world, 2, 3) == [Phase.PENDING, Phase.PENDING]
    world.cluster.state.check_invariants()


def test_what_its_owner_stopped_while_it_was_evicted_has_stopped_and_not_failed(world: World) -> None:
    world.attach(a_node(1, lease=LeaseTerms(unhealthy_after_s=3_600.0, lost_after_s=3_600.0)))
    world.submit(of(ANA, 1, max_duration_s=10.0, restart=AGAIN))
    world.report(world.workload(key(1)), Phase.RUNNING)
    grace_s = world.cluster.policy.overtime_grace.total_seconds()
    world.later(10.0 + grace_s)
    assert phases(world, 1) == [Phase.STOPPING]
    world.stop(key(1))
    world.later(grace_s)
    assert phases(world, 1) == [Phase.STOPPED]
