"""From rows the policies decide as they would have from memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from arcray.core.commands import Command, ReportEnd, Reservable, Reserve, Schedule, SubmitWorkload, Tick
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, ReservationId
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import a_node, a_workload, node_id
from arcray.testing.world import World

WHOLE_NODE = Demand(cpu_milli=8000)
HALF_NODE = Demand(cpu_milli=4000)


def a_member(number: int, size: int = 2) -> WorkloadSpec:
    gang = Gang(id="g", size=size, layout=Layout.SPREAD)
    restart = RestartPolicy(rule=RestartRule.ON_FAILURE)
    return a_workload(number, demand=WHOLE_NODE, gang=gang, restart=restart)


def an_end(number: int, node: int, phase: Phase, attempt: int = 1) -> ReportEnd:
    return ReportEnd(node_id=node_id(node), epoch=1, workload_id=a_workload(number).id, attempt=attempt, phase=phase)


def with_a_claim(world: World) -> list[Command]:
    world.attach()
    for number in (1, 2):
        spec = a_workload(number, demand=HALF_NODE, priority=Priority.BACKGROUND, preemptible=True)
        world.submit(spec)
    world.submit(a_workload(3, demand=WHOLE_NODE, priority=Priority.CRITICAL))
    world.run_round()
    world.report(world.workload(a_workload(1).id), Phase.STOPPED)
    other = a_workload(4, demand=HALF_NODE, priority=Priority.CRITICAL)
    return [Schedule(), SubmitWorkload(spec=other), an_end(2, 1, Phase.STOPPED), Schedule()]


def with_work_that_may_be_preempted(world: World) -> list[Command]:
    for number in (1, 2):
        world.attach(a_node(number))
        spec = a_workload(number, demand=HALF_NODE, priority=Priority.BACKGROUND, preemptible=True)
        world.submit(spec)
        world.later(1)
    return [SubmitWorkload(spec=a_workload(3, demand=WHOLE_NODE)), Schedule()]


def with_a_reservation(world: World) -> list[Command]:
    world.attach()
    reservation_id = ReservationId("r")
    wanted = (Reservable(demand=WHOLE_NODE),)
    world.handle(Reserve(reservation_id=reservation_id, account=AccountId("local"), slices=wanted, ttl_s=10))
    world.submit(a_workload(1, demand=HALF_NODE, reservation_id=reservation_id))
    world.submit(a_workload(2, demand=HALF_NODE))
    taking = a_workload(3, demand=Demand(cpu_milli=1000), reservation_id=reservation_id)
    return [Schedule(), SubmitWorkload(spec=taking), Tick(), Schedule()]


def with_a_gang_that_gathers(world: World) -> list[Command]:
    for number in (1, 2, 3):
        world.attach(a_node(number))
    for number in (1, 2):
        world.submit(a_member(number, size=3))
    return [Schedule(), SubmitWorkload(spec=a_member(3, size=3))]


def with_a_gang_that_is_being_started_again(world: World) -> list[Command]:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    for number in (1, 2):
        world.report(world.workload(a_workload(number).id), Phase.RUNNING)
    first = world.workload(a_workload(1).id).node_id
    world.report(world.workload(a_workload(1).id), Phase.FAILED)
    other = 2 if first == node_id(1) else 1
    return [Schedule(), an_end(2, other, Phase.STOPPED), Tick(), Schedule()]


def with_a_gang_of_which_a_member_has_ended(world: World) -> list[Command]:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_member(number))
    for number in (1, 2):
        world.report(world.workload(a_workload(number).id), Phase.RUNNING)
    world.succeed(world.workload(a_workload(1).id))
    other = 1 if world.workload(a_workload(2).id).node_id == node_id(1) else 2
    return [an_end(2, other, Phase.FAILED), Schedule()]


def with_a_gang_for_which_nodes_are_held_back(world: World) -> list[Command]:
    world.attach()
    world.submit(a_workload(9, demand=HALF_NODE))
    world.submit(a_member(1, size=1))
    world.now += timedelta(seconds=70)
    world.run_round()
    return [SubmitWorkload(spec=a_workload(8, demand=HALF_NODE)), Schedule(), an_end(9, 1, Phase.SUCCEEDED), Schedule()]


@pytest.mark.parametrize(
    "scene",
    [
        with_a_claim,
        with_work_that_may_be_preempted,
        with_a_reservation,
        with_a_gang_that_gathers,
        with_a_gang_that_is_being_started_again,
        with_a_gang_of_which_a_member_has_ended,
        with_a_gang_for_which_nodes_are_held_back,
    ],
)
def test_what_follows_is_the_same_after_a_recovery(world: World, scene: Callable[[World], list[Command]]) -> None:
    commands = scene(world)
    after = world.recovered()
    happened = 0
    for command in commands:
        for one in (world, after):
            one.now += timedelta(seconds=3)
        lived, from_rows = world.handle(command), after.handle(command)
        assert (from_rows.events, from_rows.orders) == (lived.events, lived.orders), command
        after.cluster.state.check_invariants()
        happened += len(lived.events)
    assert happened, "the scene shows nothing"


@pytest.mark.parametrize("behind_s", [-310, 310])
def test_the_last_members_of_a_gang_have_as_long_whatever_the_clocks_of_their_senders_say(behind_s: float) -> None:
    world = World(ClusterPolicy(gang_timeout=timedelta(seconds=300)))
    world.submit(replace(a_member(1, size=3), created_at=world.now - timedelta(seconds=behind_s)))
    world.later(100)
    world.submit(replace(a_member(2, size=3), created_at=world.now - timedelta(seconds=2 * behind_s)))
    recovered = world.recovered()
    for each in (world, recovered):
        each.later(199.9)
        assert each.workload(a_workload(1).id).phase is Phase.PENDING
        each.later(0.2)
        assert each.workload(a_workload(1).id).phase is Phase.REJECTED
