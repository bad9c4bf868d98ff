"""How rounds, which are short, share the work of a long queue."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.gang import Gang, Layout
from arcray.core.ids import WorkloadId
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority, WorkloadSpec
from arcray.testing.builders import a_capacity, a_node, a_workload, node_id
from arcray.testing.world import World

LIMIT = 4
WHOLE_NODE = Demand(cpu_milli=8000)
HALF_NODE = Demand(cpu_milli=4000)


@pytest.fixture
def policy() -> ClusterPolicy:
    return ClusterPolicy(round_decisions=LIMIT)


def workload_id(number: int) -> WorkloadId:
    return a_workload(number).id


def too_large(number: int, **fields: Any) -> WorkloadSpec:
    """Returns work that no node can take and that asks for what nobody else asks for."""
    return a_workload(number, demand=Demand(cpu_milli=10_000_000 + number), **fields)


def a_gang(world: World, first: int, size: int, demand: Demand, **fields: Any) -> None:
    gang = Gang(id=f"g{first}", size=size, layout=Layout.ANY)
    for number in range(first, first + size):
        world.submit(a_workload(number, gang=gang, demand=demand, **fields))


def placed_by(events: tuple[ev.Event, ...]) -> list[WorkloadId]:
    return [event.workload_id for event in events if isinstance(event, ev.WorkloadPlaced)]


def rounds_until_rest(world: World) -> list[list[WorkloadId]]:
    """Runs the rounds that are asked for; returns what each has placed."""
    rounds: list[list[WorkloadId]] = []
    while world.cluster.needs_round:
        assert len(rounds) < 1_000, "it never comes to rest"
        rounds.append(placed_by(world.run_round().events))
    return rounds


def test_refusals_end_a_round_and_the_next_one_goes_on_from_there(world: World) -> None:
    world.attach()
    for number in range(10, 10 + 2 * LIMIT):
        world.submit(too_large(number))
    world.submit(a_workload(1))
    assert rounds_until_rest(world) == [[], [], [workload_id(1)]]


def test_placements_end_a_round_too(world: World) -> None:
    world.attach(a_node(capacity=a_capacity(cores=64)))
    world.submit(too_large(1))
    numbers = range(10, 10 + 2 * LIMIT)
    for number in numbers:
        world.submit(a_workload(number, demand=Demand(cpu_milli=1000)))
    found = rounds_until_rest(world)
    assert max(map(len, found)) <= LIMIT
    assert list(chain.from_iterable(found)) == [workload_id(number) for number in numbers]


def test_a_queue_of_which_nothing_can_be_placed_comes_to_rest_after_one_pass(world: World) -> None:
    world.attach()
    for number in range(10, 10 + 5 * LIMIT):
        world.submit(too_large(number))
    assert len(rounds_until_rest(world)) == 5
    assert not world.cluster.needs_round


def test_what_stands_last_is_reached_although_room_keeps_appearing(world: World) -> None:
    world.attach()
    for number in range(10, 10 + 3 * LIMIT):
        world.submit(too_large(number))
    world.submit(a_workload(1, demand=Demand(cpu_milli=1000)))
    rounds = 0
    for number in range(100, 200):
        world.run_round()
        rounds += 1
        if world.workload(workload_id(1)).phase is Phase.PLACED:
            break
        world.attach(a_node(number))
    assert rounds <= 2 * 3 + 1  # half of each round goes on


def test_room_that_appears_during_a_pass_goes_to_the_first_that_wait_for_it(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE))
    world.submit(a_workload(2, demand=WHOLE_NODE, priority=Priority.CRITICAL))
    for number in range(10, 10 + 3 * LIMIT):
        world.submit(too_large(number))
    world.submit(a_workload(3, demand=HALF_NODE))
    world.run_round()
    world.run_round()
    world.succeed(world.workload(workload_id(1)))
    assert placed_by(world.run_round().events) == [workload_id(2)]
    assert rounds_until_rest(world)[-1] == []
    assert world.workload(workload_id(3)).phase is Phase.PENDING


def test_urgent_work_that_comes_during_a_pass_is_next(world: World) -> None:
    world.attach()
    for number in range(10, 10 + 5 * LIMIT):
        world.submit(too_large(number))
    world.run_round()
    world.submit(a_workload(1, priority=Priority.CRITICAL))
    assert placed_by(world.run_round().events) == [workload_id(1)]


def test_all_that_fits_is_placed_in_order_of_priority_then_arrival(world: World) -> None:
    world.attach(a_node(capacity=a_capacity(cores=64)))
    for number in range(10, 40):
        priority = list(Priority)[number % 3]
        world.submit(too_large(100 + number, priority=priority))
        world.submit(a_workload(number, demand=Demand(memory_bytes=GIB + number), priority=priority))
    found = list(chain.from_iterable(rounds_until_rest(world)))
    assert found == [workload_id(number) for number in sorted(range(10, 40), key=lambda number: number % 3)]


def test_room_that_appears_behind_the_pass_is_found_by_another_one(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE))
    for number in range(10, 10 + LIMIT):
        world.submit(too_large(number))
    world.submit(a_workload(2, demand=WHOLE_NODE))
    for number in range(20, 20 + 2 * LIMIT):
        world.submit(too_large(number))
    world.run_round()
    world.run_round()
    world.succeed(world.workload(workload_id(1)))
    assert [workload_id(2)] in rounds_until_rest(world)


def test_a_gang_counts_its_members_and_one_that_is_larger_than_a_round_has_its_turn(world: World) -> None:
    world.attach()
    for first in (10, 20):
        a_gang(world, first, LIMIT + 1, WHOLE_NODE)
    world.submit(a_workload(1))
    assert rounds_until_rest(world) == [[], [], [workload_id(1)]]


def test_nodes_stay_held_back_until_the_pass_is_over(world: World) -> None:
    _, leader = held_back(world)
    world.submit(a_workload(50, demand=HALF_NODE))
    for _ in range(3):
        assert placed_by(world.run_round().events) == []
        assert world.cluster.needs_round
    holder = world.cluster.state.gangs.holder
    assert holder is not None
    assert holder.leader == leader
    assert rounds_until_rest(world)[-1] == []
    assert world.workload(workload_id(50)).phase is Phase.PENDING


def test_nodes_are_not_held_back_against_urgent_work_that_comes_during_the_pass(world: World) -> None:
    held_back(world)
    world.run_round()
    assert world.cluster.state.gangs.held
    world.submit(a_workload(50, demand=HALF_NODE, priority=Priority.CRITICAL))
    assert placed_by(world.run_round().events) == [workload_id(50)]
    assert world.cluster.state.gangs.held


def test_the_gang_for_which_nodes_are_held_back_takes_them_in_the_same_pass(world: World) -> None:
    small, leader = held_back(world)
    world.run_round()
    for each in small:
        world.succeed(world.workload(each))
    assert leader in placed_by(world.run_round().events)


def held_back(world: World) -> tuple[list[WorkloadId], WorkloadId]:
    """A gang of two whole nodes has waited for long, before much else; both nodes are half full."""
    small = []
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(a_workload(number, demand=HALF_NODE, node_id=node_id(number)))
        small.append(workload_id(number))
    a_gang(world, 5, 2, WHOLE_NODE)
    rounds_until_rest(world)
    world.now = world.now.replace(minute=1, second=1)
    for number in range(10, 10 + 5 * LIMIT):
        world.submit(too_large(number))
    return small, workload_id(5)
