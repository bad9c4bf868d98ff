"""The simulation's look at a cluster at rest: what it takes for a lost wake-up."""

from __future__ import annotations

from arcray.core.commands import ReportTelemetry
from arcray.core.gang import Gang
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.testing.builders import a_node, a_workload, node_id
from arcray.testing.simulation.wakeups import overlooked
from arcray.testing.world import World


def at_rest() -> World:
    """Returns a cluster in which one workload waits for what a gang holds back, which waits for a node."""
    world = World(ClusterPolicy())
    world.attach()
    world.attach(a_node(2))
    world.submit(a_workload(9, node_id=node_id(2)))
    world.run_round()
    for number in (1, 2):
        world.submit(a_workload(number, gang=Gang(id="g", size=2), demand=Demand(cpu_milli=8000)))
    for _ in range(7):
        world.later(10)
        for number in (1, 2):
            world.handle(ReportTelemetry(node_id=node_id(number), epoch=1, telemetry=None))
    world.submit(a_workload(3, demand=Demand(cpu_milli=1000)))
    world.run_round()
    while world.cluster.needs_round:
        world.run_round()
    return world


def test_work_that_waits_for_what_is_not_there_or_held_back_is_not_overlooked() -> None:
    world = at_rest()
    assert world.cluster.state.gangs.held
    assert not overlooked(world.cluster)


def test_work_that_could_start_and_that_nobody_looks_at_is_overlooked() -> None:
    world = at_rest()
    world.stop(a_workload(1).id)
    assert not overlooked(world.cluster), "a round is asked for"
    world.cluster.state.needs_round = False
    assert overlooked(world.cluster).startswith(str(a_workload(3).id))
    assert not world.cluster.needs_round, "only a copy is tried"
