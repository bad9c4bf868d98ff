"""All of a gang or nothing of it, at its start and at its end, and how it comes to its turn."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.commands import ReportTelemetry, SetNodeScheduling, SetQuota
from arcray.core.errors import ArcrayError, ConflictError, InvalidArgumentError, ResourceExhaustedError
from arcray.core.explanation import WorkloadExplanation
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, NodeId, ReservationId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.queries import ExplainWorkload
from arcray.core.queues import Queue
from arcray.core.quota import Quota
from arcray.core.resources import Demand
from arcray.core.turn import Outcome
from arcray.core.workload import Origin, Phase, Priority, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import a_capacity, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

WHOLE_NODE = Demand(cpu_milli=8000)
HALF_NODE = Demand(cpu_milli=4000)
ON_FAILURE = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=1)


def a_member(number: int, size: int = 2, layout: Layout = Layout.ANY, gang: str = "g", **fields: Any) -> WorkloadSpec:
    return a_workload(number, gang=Gang(id=gang, size=size, layout=layout), **({"demand": WHOLE_NODE} | fields))


def workload_id(number: int) -> WorkloadId:
    return a_workload(number).id


def started(outcome: Outcome) -> set[WorkloadId]:
    return {order.order.workload_id for order in outcome.orders if isinstance(order.order, StartWorkload)}


def phases(world: World, *numbers: int) -> list[Phase]:
    return [world.workload(workload_id(number)).phase for number in numbers]


def run_gang(world: World, size: int = 2, **fields: Any) -> None:
    """Starts a gang on nodes of its own and has it run."""
    for number in range(1, size + 1):
        world.attach(a_node(number))
    for number in range(1, size + 1):
        world.submit(a_member(number, size, **fields))
    for number in range(1, size + 1):
        world.report(world.workload(workload_id(number)), Phase.RUNNING)


def explanation(world: World, number: int) -> str:
    answer = world.cluster.answer(ExplainWorkload(workload_id=workload_id(number)), world.now)
    assert isinstance(answer, WorkloadExplanation)
    return answer.sentence()


def test_nothing_starts_before_all_members_are_there(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    assert started(world.submit(a_member(1))) == set()
    assert started(world.run_round()) == set()
    assert started(world.submit(a_member(2))) == {workload_id(1), workload_id(2)}


def test_nothing_starts_before_all_members_fit_at_the_same_time(world: World) -> None:
    world.attach()
    world.submit(a_member(1))
    world.submit(a_member(2))
    assert started(world.run_round()) == set()
    assert world.cluster.state.placement.free(node_id(1)).cpu_milli == 8000
    world.attach(a_node(2))
    assert started(world.run_round()) == {workload_id(1), workload_id(2)}


def test_members_of_different_accounts_are_different_gangs(world: World) -> None:
    world.submit(a_member(1))
    world.submit(a_member(2, origin=Origin(facade="rest", account=AccountId("other"))))
    world.attach()
    world.attach(a_node(2))
    assert started(world.run_round()) == set()


def test_a_packed_gang_starts_on_one_node_only(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number, capacity=a_capacity(cores=6)))
    for number in (1, 2):
        world.submit(a_member(number, layout=Layout.PACK, demand=HALF_NODE))
    assert started(world.run_round()) == set()
    world.attach(a_node(3))
    assert len(started(world.run_round())) == 2
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(3)}


def test_a_packed_gang_finds_the_node_whose_shared_gpus_have_room(world: World) -> None:
    share = Demand(cpu_milli=1000, gpus=1, gpu_memory_bytes=50 * GIB)
    world.attach(a_node(1, capacity=a_capacity(gpus=1)))
    world.attach(a_node(2, capacity=a_capacity(gpus=2, cores=64)))
    for number in (1, 2):
        world.submit(a_member(number, layout=Layout.PACK, demand=share))
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(2)}


def test_a_packed_gang_finds_the_one_node_with_room_among_many_that_hold_one_member(world: World) -> None:
    share = Demand(gpus=1, gpu_memory_bytes=60 * GIB)
    for number in range(1, 101):
        world.attach(a_node(number, capacity=a_capacity(gpus=1)))
    for number in (1, 2, 3):
        world.submit(a_member(number, size=3, layout=Layout.PACK, demand=share))
    world.run_round()
    said = explanation(world, 1)
    assert "0 of 100 nodes can take it: 100 by together (does not take all of them at once)" in said
    assert "pin" not in said
    world.attach(a_node(101, capacity=a_capacity(gpus=4)))
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2, 3)} == {node_id(101)}


def test_a_packed_gang_takes_the_tightest_node_that_has_room(world: World) -> None:
    share = Demand(gpus=1, gpu_memory_bytes=60 * GIB)
    for number, gpus in ((1, 1), (2, 8), (3, 2), (4, 4)):
        world.attach(a_node(number, capacity=a_capacity(gpus=gpus)))
    world.submit(a_workload(9, node_id=node_id(1), demand=Demand(gpus=1, gpu_memory_bytes=GIB)))
    world.run_round()  # a GPU that is shared already is the first choice of one share
    for number in (1, 2):
        world.submit(a_member(number, layout=Layout.PACK, demand=share))
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(3)}


def test_what_was_not_looked_at_for_a_packed_gang_is_said(world: World) -> None:
    """Shares that differ pass the bound and fit nowhere: 60 and 60 and 40 GiB on two GPUs of 80."""
    for number in range(1, 71):
        world.attach(a_node(number, capacity=a_capacity(gpus=2)))
    for number, size in enumerate((60, 60, 40), 1):
        demand = Demand(gpus=1, gpu_memory_bytes=size * GIB)
        world.submit(a_member(number, size=3, layout=Layout.PACK, demand=demand))
    world.run_round()
    said = explanation(world, 1)
    assert "64 by together (does not take all of them at once), 6 by untried (may have, and was not looked at)" in said


def test_a_spread_gang_starts_on_as_many_nodes_as_it_has_members(world: World) -> None:
    world.attach(a_node(1))
    for number in (1, 2):
        world.submit(a_member(number, layout=Layout.SPREAD, demand=HALF_NODE))
    assert started(world.run_round()) == set()
    world.attach(a_node(2))
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(1), node_id(2)}


def test_members_that_only_some_nodes_can_take_leave_the_others_to_the_rest(world: World) -> None:
    world.attach(a_node(1, labels={"disk": "fast"}))
    world.attach(a_node(2))
    world.submit(a_member(1, size=3))
    world.submit(a_member(2, size=3, selector=(("disk", "fast"),), demand=HALF_NODE))
    world.submit(a_member(3, size=3, node_id=node_id(1), demand=HALF_NODE))
    world.run_round()
    assert phases(world, 1, 2, 3) == [Phase.PLACED] * 3


def test_gangs_and_single_work_go_by_priority_then_arrival(world: World) -> None:
    world.submit(a_workload(9, demand=WHOLE_NODE))
    for number in (1, 2):
        world.submit(a_member(number))
    for number in (3, 4):
        world.submit(a_member(number, gang="urgent", priority=Priority.CRITICAL))
    world.attach()
    world.attach(a_node(2))
    world.run_round()
    assert phases(world, 3, 4, 9) == [Phase.PLACED, Phase.PLACED, Phase.PENDING]
    for number in (3, 4):
        world.succeed(world.workload(workload_id(number)))
    world.run_round()
    assert phases(world, 9, 1, 2) == [Phase.PLACED, Phase.PENDING, Phase.PENDING]


def test_two_gangs_that_fit_one_after_the_other_do_not_block_each_other(world: World) -> None:
    for gang in (0, 1):
        for number in (1, 2):
            world.submit(a_member(2 * gang + number, gang=f"g{gang}"))
    for number in (1, 2, 3):  # room for one and a half
        world.attach(a_node(number))
    world.run_round()
    assert phases(world, 1, 2, 3, 4) == [Phase.PLACED, Phase.PLACED, Phase.PENDING, Phase.PENDING]
    world.succeed(world.workload(workload_id(1)))
    world.run_round()
    assert phases(world, 3, 4) == [Phase.PLACED, Phase.PLACED]


def test_a_member_that_its_node_refuses_makes_the_whole_gang_start_again(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    outcome = world.report(world.workload(workload_id(1)), Phase.FAILED, refused=True)
    (order,) = outcome.orders
    assert isinstance(order.order, StopAttempt)
    assert order.order.workload_id == workload_id(2)
    world.later(5)
    assert started(world.run_round()) == set()  # the other one has not ended yet
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.run_round()
    assert phases(world, 1, 2) == [Phase.PLACED, Phase.PLACED]
    assert [world.workload(workload_id(number)).restarts for number in (1, 2)] == [0, 0]


@pytest.mark.parametrize("policy", [ClusterPolicy(restart_backoff=timedelta(seconds=0.5))])
def test_a_gang_that_is_refused_again_and_again_waits_longer_each_time_and_tries_other_nodes(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    refuser = world.workload(workload_id(1)).node_id
    waits = []
    for _ in range(3):
        world.report(world.workload(workload_id(1)), Phase.FAILED, refused=True)
        world.report(world.workload(workload_id(2)), Phase.STOPPED)
        not_before = world.workload(workload_id(1)).not_before
        assert not_before is not None
        waits.append((not_before - world.now).total_seconds())
        world.later(waits[-1])
        world.run_round()
    assert waits == [0.5, 1, 2]
    world.attach(a_node(3))
    world.report(world.workload(workload_id(1)), Phase.FAILED, refused=True)
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.later(4)
    world.run_round()
    assert world.workload(workload_id(1)).node_id not in (None, refuser)


def refused_by_node(world: World, refuser: NodeId) -> float:
    """Has one node refuse what is on it of a gang of two, and everything else end; returns the wait in seconds."""
    members = [world.workload(workload_id(number)) for number in (1, 2)]
    for member in sorted(members, key=lambda each: each.node_id != refuser):
        if member.node_id == refuser:
            world.report(member, Phase.FAILED, refused=True)
        else:
            world.report(member, Phase.STOPPED)
    return max((each.not_before - world.now).total_seconds() for each in members if each.not_before is not None)


@pytest.mark.parametrize("policy", [ClusterPolicy(restart_backoff=timedelta(seconds=0.5))])
def test_members_of_a_gang_do_not_take_turns_on_a_node_that_refuses_them(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    waits = []
    for _ in range(4):
        waits.append(refused_by_node(world, node_id(1)))
        world.later(waits[-1])
        world.run_round()
    assert waits == [0.5, 1, 2, 4]
    world = world.recovered()
    world.attach(a_node(3))
    refused_by_node(world, node_id(1))
    world.later(8)
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(2), node_id(3)}


def test_what_a_member_is_refused_while_it_is_to_end_with_its_gang_is_remembered_too(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    for number in (3, 4):
        world.attach(a_node(number))
    for number in (1, 2):
        world.report(world.workload(workload_id(number)), Phase.FAILED, refused=True)
    world.later(5)
    world.run_round()
    assert {world.workload(workload_id(number)).node_id for number in (1, 2)} == {node_id(3), node_id(4)}


def test_a_node_that_refuses_one_member_alone_takes_the_other_where_there_are_no_others(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    first, second = (world.workload(workload_id(number)) for number in (1, 2))
    refuser, other = first.node_id, second.node_id
    world.report(first, Phase.FAILED, refused=True)
    world.report(second, Phase.STOPPED)
    world.later(5)
    world.run_round()
    assert (first.node_id, second.node_id) == (other, refuser)


@pytest.mark.parametrize("policy", [ClusterPolicy(gang_starts=1)])
def test_a_start_that_fails_is_repeated_as_often_as_the_policy_says(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    world.report(world.workload(workload_id(2)), Phase.RUNNING)
    world.report(world.workload(workload_id(1)), Phase.FAILED, message="no image")
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.later(5)
    world.run_round()
    assert phases(world, 1, 2) == [Phase.PLACED, Phase.PLACED]
    world.report(world.workload(workload_id(1)), Phase.FAILED, message="no image")
    assert phases(world, 1, 2) == [Phase.FAILED, Phase.STOPPING]
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    other = world.workload(workload_id(2))
    assert (other.phase, other.message) == (Phase.FAILED, f"member {workload_id(1)} of its gang: no image")
    assert other.eviction is None


def test_after_all_members_ran_the_restart_policy_decides(world: World) -> None:
    run_gang(world, restart=ON_FAILURE)
    world.report(world.workload(workload_id(1)), Phase.FAILED)
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.later(5)
    world.run_round()
    assert [world.workload(workload_id(number)).restarts for number in (1, 2)] == [1, 1]
    for number in (1, 2):
        world.report(world.workload(workload_id(number)), Phase.RUNNING)
    world.report(world.workload(workload_id(1)), Phase.FAILED)
    assert phases(world, 1, 2) == [Phase.FAILED, Phase.STOPPING]


def test_a_gang_that_ran_and_may_not_restart_fails_as_a_whole(world: World) -> None:
    run_gang(world)
    world.report(world.workload(workload_id(2)), Phase.FAILED)
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    assert phases(world, 1, 2) == [Phase.FAILED, Phase.FAILED]


def test_a_member_that_ends_well_leaves_the_others_running(world: World) -> None:
    run_gang(world, restart=ON_FAILURE)
    assert world.succeed(world.workload(workload_id(1))).orders == ()
    assert phases(world, 1, 2) == [Phase.SUCCEEDED, Phase.RUNNING]
    world.report(world.workload(workload_id(2)), Phase.FAILED)  # it cannot start as a whole any more
    assert phases(world, 2) == [Phase.FAILED]


def test_a_lost_node_takes_the_gang_from_the_others_too(world: World) -> None:
    run_gang(world, restart=ON_FAILURE)
    world.later(140)
    world.handle(a_beat(2))
    world.later(10)
    assert phases(world, 1, 2) == [Phase.PENDING, Phase.STOPPING]
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.attach(a_node(3))
    world.later(3)
    world.run_round()
    assert phases(world, 1, 2) == [Phase.PLACED, Phase.PLACED]


def test_stopping_a_member_stops_the_gang(world: World) -> None:
    run_gang(world)
    world.stop(workload_id(1))
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    assert phases(world, 1, 2) == [Phase.STOPPED, Phase.STOPPED]


def test_stopping_a_member_that_waits_stops_those_that_came(world: World) -> None:
    world.submit(a_member(1, size=3))
    world.submit(a_member(2, size=3))
    world.stop(workload_id(2))
    assert phases(world, 1, 2) == [Phase.STOPPED, Phase.STOPPED]
    assert len(world.cluster.state.gangs) == 0


def test_a_member_stopped_while_its_gang_is_being_started_again_stops_all(world: World) -> None:
    run_gang(world, restart=ON_FAILURE)
    world.report(world.workload(workload_id(1)), Phase.FAILED)
    world.stop(workload_id(1))
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    assert phases(world, 1, 2) == [Phase.STOPPED, Phase.STOPPED]


def test_a_gang_that_is_not_complete_in_time_is_rejected_with_the_reason(world: World) -> None:
    world.submit(a_member(1, size=3))
    world.later(100)
    world.submit(a_member(2, size=3))
    world.later(199)
    assert phases(world, 1, 2) == [Phase.PENDING, Phase.PENDING]
    world.later(1)
    assert phases(world, 1, 2) == [Phase.REJECTED, Phase.REJECTED]
    assert world.workload(workload_id(1)).message == "only 2 of 3 members of gang g came within 300 s"


def test_the_name_of_a_gang_is_free_again_once_all_of_it_has_ended(world: World) -> None:
    world.submit(a_member(1))
    world.later(200)
    world.stop(workload_id(1))
    world.submit(a_member(2))
    world.later(200)  # the deadline of the first one passes
    assert phases(world, 2) == [Phase.PENDING]
    world.later(100)
    assert phases(world, 2) == [Phase.REJECTED]


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"gang": Gang(id="", size=2)}, InvalidArgumentError, "gang.id"),
        ({"gang": Gang(id="h", size=0)}, InvalidArgumentError, "gang.size"),
        ({"gang": Gang(id="h", size=257)}, ResourceExhaustedError, "gang.size"),
        ({"gang": Gang(id="g", size=3)}, ConflictError, "gang.size"),
        ({"gang": Gang(id="g", size=2, layout=Layout.PACK)}, ConflictError, "gang.layout"),
        ({"priority": Priority.CRITICAL}, ConflictError, "priority"),
        ({"restart": ON_FAILURE}, ConflictError, "restartPolicy"),
        ({"restart": RestartPolicy(rule=RestartRule.ALWAYS)}, InvalidArgumentError, "restartPolicy"),
        ({"preemptible": True}, InvalidArgumentError, "preemptible"),
        ({"reservation_id": ReservationId("r")}, InvalidArgumentError, "reservationId"),
        ({"payload": an_inference()}, InvalidArgumentError, "gang"),
    ],
)
def test_a_member_that_does_not_fit_its_gang_is_refused_by_field(
    world: World, fields: dict[str, Any], error: type[ArcrayError], field: str
) -> None:
    world.submit(a_member(1))
    with pytest.raises(error) as refused:
        world.submit(a_workload(2, **({"gang": Gang(id="g", size=2)} | fields)))
    assert refused.value.field == field


def test_a_member_too_many_is_refused(world: World) -> None:
    for number in (1, 2):
        world.submit(a_member(number))
    with pytest.raises(ConflictError) as refused:
        world.submit(a_member(3))
    assert refused.value.field == "gang.id"


@pytest.mark.parametrize("policy", [ClusterPolicy(max_pending=3)])
def test_each_member_that_waits_counts_once_as_waiting_work(world: World) -> None:
    for number in (1, 2):
        world.submit(a_member(number))
    world.submit(a_workload(3))
    with pytest.raises(ResourceExhaustedError):
        world.submit(a_member(4, gang="another"))
    reading = next(each for each in world.cluster.state.queues() if each.queue is Queue.PENDING)
    assert (reading.length, reading.limit) == (3, 3)


@pytest.mark.parametrize("policy", [ClusterPolicy(max_pending=3)])
def test_a_gang_that_could_never_wait_as_a_whole_is_refused_with_its_first_member(world: World) -> None:
    with pytest.raises(ResourceExhaustedError) as beyond_queue:
        world.submit(a_member(1, size=4))
    world.handle(SetQuota(account=a_member(1).origin.account, quota=Quota(pending=2)))
    with pytest.raises(InvalidArgumentError, match="could never start") as beyond_quota:
        world.submit(a_member(1, size=3))
    assert (beyond_queue.value.field, beyond_quota.value.field) == ("gang.size", "gang.size")
    world.submit(a_member(1, size=2))


# -- a large gang comes to its turn ---------------------------------------------------------------------------------


def run_rounds(world: World) -> None:
    """Runs the rounds that are asked for."""
    while world.cluster.needs_round:
        world.run_round()


def aged_gang(world: World) -> None:
    """A gang of two whole nodes waits, on two nodes that small work keeps half full."""
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_workload(10 + number, demand=HALF_NODE, node_id=node_id(number)))
        world.run_round()
    for number in (1, 2):
        world.submit(a_member(number))
    world.run_round()
    world.now = world.now.replace(minute=1, second=1)


def test_small_work_goes_past_a_gang_that_has_not_waited_long(world: World) -> None:
    aged_gang(world)
    world.now = world.now.replace(minute=0, second=30)
    world.submit(a_workload(20, demand=HALF_NODE))
    world.run_round()
    assert phases(world, 20) == [Phase.PLACED]


def test_work_behind_a_gang_that_has_waited_long_leaves_it_the_nodes_it_could_use(world: World) -> None:
    aged_gang(world)
    world.attach(a_node(3, capacity=a_capacity(cores=7)))
    for number in (20, 21):
        world.submit(a_workload(number, demand=HALF_NODE))
    world.run_round()
    assert world.workload(workload_id(20)).node_id == node_id(3)
    assert phases(world, 21) == [Phase.PENDING]
    assert "2 nodes are held back for a gang that has waited since" in explanation(world, 21)
    assert "2 nodes are held back for its gang" in explanation(world, 1)
    for number in (11, 12):
        world.succeed(world.workload(workload_id(number)))
    world.run_round()
    assert phases(world, 1, 2, 21) == [Phase.PLACED, Phase.PLACED, Phase.PENDING]


def test_work_before_a_gang_that_has_waited_long_is_placed_all_the_same(world: World) -> None:
    aged_gang(world)
    world.submit(a_workload(20, demand=HALF_NODE, priority=Priority.CRITICAL))
    world.run_round()
    assert phases(world, 20) == [Phase.PLACED]


def test_nodes_are_held_back_for_the_first_of_two_gangs_only(world: World) -> None:
    aged_gang(world)
    world.submit(a_member(3, gang="small", demand=HALF_NODE))
    world.submit(a_member(4, gang="small", demand=HALF_NODE))
    world.run_round()
    assert phases(world, 3, 4) == [Phase.PENDING, Phase.PENDING]


def test_nodes_are_not_held_back_for_a_gang_that_would_not_fit_on_empty_ones(world: World) -> None:
    world.attach()
    world.submit(a_workload(10, demand=HALF_NODE))
    for number in (1, 2):
        world.submit(a_member(number))
    world.now = world.now.replace(minute=2)
    world.submit(a_workload(20, demand=HALF_NODE))
    world.run_round()
    assert phases(world, 20) == [Phase.PLACED]
    said = explanation(world, 1)
    assert "even if nothing else ran on the nodes that take work now: 1 of 2 have a place" in said


def test_nodes_are_let_go_of_once_a_cordon_leaves_too_few_for_the_gang(world: World) -> None:
    aged_gang(world)
    for number in (1, 2):
        world.handle(ReportTelemetry(node_id=node_id(number), epoch=1))
    world.submit(a_workload(20, demand=HALF_NODE))
    world.run_round()
    assert phases(world, 20) == [Phase.PENDING]
    world.handle(SetNodeScheduling(node_id=node_id(2), cordoned=True))
    run_rounds(world)
    assert phases(world, 20) == [Phase.PENDING], "the last look is not old enough to be repeated"
    world.later(5)
    run_rounds(world)
    assert phases(world, 20) == [Phase.PLACED]


def test_nodes_are_held_back_for_every_member_however_many_different_ones_there_are(world: World) -> None:
    size = 20
    for number in range(1, size):
        world.attach(a_node(number, capacity=a_capacity(gpus=1)))
    world.attach(a_node(size, labels={"zone": "b"}))
    world.submit(a_workload(900, selector=(("zone", "b"),), demand=HALF_NODE))
    world.run_round()
    for number in range(1, size):
        world.submit(a_member(number, size, demand=Demand(gpus=1, cpu_milli=1000 + number)))
    world.submit(a_member(size, size, selector=(("zone", "b"),)))
    world.now = world.now.replace(minute=1, second=1)
    world.submit(a_workload(901, selector=(("zone", "b"),), demand=HALF_NODE))
    world.run_round()
    assert phases(world, 901) == [Phase.PENDING], "its node is held back"
    assert "even if nothing else ran" not in explanation(world, size)
    world.succeed(world.workload(workload_id(900)))
    world.run_round()
    assert set(phases(world, *range(1, size + 1))) == {Phase.PLACED}


@pytest.mark.parametrize("layout", [Layout.ANY, Layout.SPREAD])
def test_a_member_that_only_a_small_node_can_take_counts_on_it_among_very_many_larger_ones(
    world: World, layout: Layout
) -> None:
    """Takes more nodes than a gang is tried on where every one serves: some 0.1 s."""
    world.attach(a_node(1, capacity=a_capacity(cores=2)))
    for number in range(2, 1_100):
        world.attach(a_node(number))
    world.submit(a_workload(900, node_id=node_id(1), demand=Demand(cpu_milli=1000)))
    world.run_round()
    world.submit(a_member(1, layout=layout))
    world.submit(a_member(2, layout=layout, node_id=node_id(1), demand=Demand(cpu_milli=2000)))
    world.now = world.now.replace(minute=1, second=1)
    world.run_round()
    assert "even if nothing else ran" not in explanation(world, 2)
    assert node_id(1) in world.cluster.state.gangs.held


def test_what_is_missing_on_empty_nodes_is_worked_out_once_until_a_node_changes(world: World) -> None:
    world.attach()
    world.submit(a_workload(10, demand=HALF_NODE))
    for number in (1, 2):
        world.submit(a_member(number))
    never = "even if nothing else ran on the nodes that take work now"
    gang = world.cluster.state.gangs.of(a_member(1))
    assert never in explanation(world, 1)
    once = gang.when_empty
    assert explanation(world, 2) == explanation(world, 1)
    assert gang.when_empty is once
    empty = world.cluster.state.gangs.empty
    for number in (3, 4):
        world.submit(a_member(number, gang="other"))
    assert never in explanation(world, 3)
    assert world.cluster.state.gangs.empty is empty
    world.attach(a_node(2))
    assert never not in explanation(world, 1)
    world.handle(SetNodeScheduling(node_id=node_id(2), cordoned=True))
    assert never in explanation(world, 1)


def test_nodes_are_let_go_of_after_a_while_and_held_back_again_after_another(world: World) -> None:
    aged_gang(world)
    world.submit(a_workload(20, demand=HALF_NODE))
    world.run_round()
    assert phases(world, 20) == [Phase.PENDING]
    beat_until(world, seconds=620)
    assert world.cluster.needs_round
    world.run_round()
    assert phases(world, 20) == [Phase.PLACED]
    world.succeed(world.workload(workload_id(20)))
    beat_until(world, seconds=620)
    world.submit(a_workload(21, demand=HALF_NODE))
    world.run_round()
    assert phases(world, 21) == [Phase.PENDING]


def test_a_gang_that_is_stopped_holds_nothing_back(world: World) -> None:
    aged_gang(world)
    world.submit(a_workload(20, demand=HALF_NODE))
    world.run_round()
    world.stop(workload_id(1))
    assert world.cluster.needs_round, "else what waits for the nodes would wait for ever"
    world.run_round()
    assert phases(world, 20) == [Phase.PLACED]


def test_explain_says_who_is_missing(world: World) -> None:
    world.attach()
    world.submit(a_member(1, size=3))
    said = explanation(world, 1)
    assert "1 of 3 members of gang g are there; they are rejected at 2026-01-01T00:05:00+00:00 otherwise" in said


def test_explain_says_how_far_a_gang_gets(world: World) -> None:
    world.attach()
    for number in (1, 2):
        world.submit(a_member(number))
    assert "gang g starts when all of its 2 members fit at once (any): 1 of 2 have a place" in explanation(world, 2)


def test_a_phase_of_one_member_says_nothing_of_the_others(world: World) -> None:
    run_gang(world)
    events = world.report(world.workload(workload_id(1)), Phase.STOPPED, message="by its engine").events
    assert [type(event) for event in events] == [ev.WorkloadFinished, ev.WorkloadStopRequested]


def a_beat(number: int) -> ReportTelemetry:
    return ReportTelemetry(node_id=node_id(number), epoch=1)


def beat_until(world: World, seconds: float) -> None:
    """Lets time pass while the nodes are heard."""
    for _ in range(int(seconds // 10)):
        for number in (1, 2):
            world.handle(a_beat(number))
        world.later(10)
