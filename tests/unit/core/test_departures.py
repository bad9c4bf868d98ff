"""Nodes that have left are forgotten in time, unless something alive refers to them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from arcray.core.commands import DetachNode, DrainNode
from arcray.core.departures import departed
from arcray.core.ids import NodeId
from arcray.core.node import Health
from arcray.core.policy import ClusterPolicy
from arcray.core.workload import Phase, RestartPolicy, RestartRule
from arcray.testing.builders import T0, a_node, a_workload, node_id
from arcray.testing.world import World

LATER = T0 + timedelta(days=365)


@pytest.fixture
def world() -> World:
    return World(ClusterPolicy())


def forgettable(world: World, most: int | None = None) -> list[NodeId]:
    return list(departed(world.cluster.state, before=LATER, most=most, until=LATER))


def leave(world: World, number: int, epoch: int = 1) -> None:
    world.handle(DetachNode(node_id=node_id(number), epoch=epoch))


def test_a_node_that_left_or_was_lost_is_forgotten_with_all_that_follows_from_it(world: World) -> None:
    for number in (1, 2, 3):
        world.attach(a_node(number, labels={"zone": "a"}))
    world.load(node_id(1))
    leave(world, 1)
    world.later(3_600)  # the others were silent
    world.attach(a_node(3))
    assert world.cluster.state.nodes[node_id(2)].health is Health.LOST
    assert forgettable(world) == [node_id(1), node_id(2)]
    assert world.cluster.forget_nodes(forgettable(world)) == [node_id(1), node_id(2)]
    state = world.cluster.state
    state.check_invariants()
    assert [*state.nodes, *state.on_node] == [node_id(3), node_id(3)]
    assert len(state.placement) == 1
    assert forgettable(world) == []
    assert world.attach(a_node(1)) == 1
    assert world.cluster.next_due() is not None


def test_what_is_there_is_never_forgotten(world: World) -> None:
    world.attach()
    assert forgettable(world, most=0) == []
    assert world.cluster.forget_nodes([node_id(1), node_id(9)]) == []


def test_beyond_the_limit_those_go_first_that_have_been_gone_for_longest(world: World) -> None:
    for number in (3, 1, 2):
        world.attach(a_node(number))
        leave(world, number)
        world.now += timedelta(seconds=1)
    state = world.cluster.state
    assert list(departed(state, before=None, most=2, until=LATER)) == [node_id(3)]
    assert list(departed(state, before=None, most=2, until=T0)) == []
    assert list(departed(state, before=T0 + timedelta(seconds=2), most=None, until=LATER)) == [node_id(3), node_id(1)]


def test_a_node_that_live_work_is_pinned_to_is_remembered(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, node_id=node_id(1), restart=RestartPolicy(rule=RestartRule.ALWAYS)))
    leave(world, 1)
    assert forgettable(world) == []
    assert world.cluster.forget_nodes([node_id(1)]) == []
    world.stop(a_workload(1).id)
    assert forgettable(world) == [node_id(1)]


def test_an_operators_drain_of_a_node_that_left_ends_and_is_forgotten_with_it(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.run_round()
    world.handle(DrainNode(node_id=node_id(1)))
    leave(world, 1)
    assert world.cluster.forget_nodes([node_id(1)]) == [node_id(1)]
    world.cluster.state.check_invariants()
    assert world.workload(a_workload(1).id).phase is Phase.FAILED


def test_when_a_node_was_last_heard_outlives_the_scheduler(world: World) -> None:
    world.attach()
    leave(world, 1)
    world.now += timedelta(days=1)
    after = world.recovered()
    assert after.cluster.state.nodes[node_id(1)].last_seen == T0
