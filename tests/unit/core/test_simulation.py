"""What if: the same rules on a copy, and the live state as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from arcray.core.commands import RegisterModel, SetNodeScheduling, SetQuota
from arcray.core.errors import DeadlineExceededError, InvalidArgumentError, NotFoundError
from arcray.core.explanation import WaitsFor
from arcray.core.ids import AccountId, NodeId
from arcray.core.quota import Quota
from arcray.core.resources import Demand
from arcray.core.simulation import MOST_SUBMISSIONS, check, image, simulate
from arcray.core.what_if import Simulate, Simulation
from arcray.core.workload import ModelServer, Origin, Phase, Priority, RestartPolicy, RestartRule
from arcray.testing.builders import a_capacity, a_model, a_node, a_workload, node_id
from arcray.testing.world import World

N1, N2 = node_id(1), node_id(2)
AGAIN = RestartPolicy(rule=RestartRule.ON_FAILURE)


def what_if(world: World, **wanted: Any) -> Simulation:
    state = world.cluster.state
    before = deepcopy((state.nodes, state.workloads, state.quotas))
    found = simulate(image(state, world.now), world.cluster.policy, Simulate(**wanted), lambda: None)
    assert (state.nodes, state.workloads, state.quotas) == before
    return found


def started(world: World, number: int, **fields: Any) -> None:
    world.submit(a_workload(number, **fields))
    world.run_round()
    world.report(world.workload(a_workload(number).id), Phase.RUNNING)


def test_work_that_would_fit_gets_its_place_and_its_gpus(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=2)))
    (found,) = what_if(world, submit=(a_workload(1, demand=Demand(gpus=2)),)).submitted
    assert found.node_id == N1
    assert found.allocation is not None
    assert [share.index for share in found.allocation.gpus] == [0, 1]


def test_work_that_would_wait_is_explained(world: World) -> None:
    world.attach()
    (found,) = what_if(world, submit=(a_workload(1, demand=Demand(cpu_milli=9000)),)).submitted
    assert found.explanation is not None
    assert found.explanation.waits_for is WaitsFor.PLACE
    assert found.explanation.suggestion == "1 cores less would fit"


def test_work_that_would_be_refused_says_why(world: World) -> None:
    world.handle(SetQuota(account=AccountId("local"), quota=Quota(gpus=1)))
    (found,) = what_if(world, submit=(a_workload(1, demand=Demand(gpus=2)),)).submitted
    assert found.refusal.startswith("demand.gpus: could never start")


def test_quotas_hold_in_a_simulation(world: World) -> None:
    world.attach()
    world.handle(SetQuota(account=AccountId("local"), quota=Quota(workloads=1)))
    first, second = what_if(world, submit=(a_workload(1), a_workload(2))).submitted
    assert first.node_id == N1
    assert second.explanation is not None
    assert second.explanation.waits_for is WaitsFor.QUOTA


def test_more_nodes_would_start_what_waits(world: World) -> None:
    world.attach()
    for number in range(1, 4):
        world.submit(a_workload(number, demand=Demand(cpu_milli=8000)))
    found = what_if(world, add_nodes=(a_node(2), a_node(3)))
    assert (found.started_total, found.waiting) == (2, 0)
    assert found.started == tuple(a_workload(number).id for number in (2, 3))


def test_what_is_being_stopped_has_stopped_in_a_simulation(world: World) -> None:
    world.attach()
    started(world, 1, demand=Demand(cpu_milli=8000))
    world.submit(a_workload(2, demand=Demand(cpu_milli=8000)))
    world.run_round()
    world.stop(a_workload(1).id)
    found = what_if(world)
    assert (found.started, found.displaced, found.waiting) == ((a_workload(2).id,), (), 0)


def test_a_preemptor_starts_in_a_simulation_where_its_place_is_kept(world: World) -> None:
    world.attach()
    started(world, 1, demand=Demand(cpu_milli=8000), priority=Priority.BACKGROUND, preemptible=True)
    world.submit(a_workload(2, demand=Demand(cpu_milli=8000), priority=Priority.CRITICAL))
    world.run_round()
    found = what_if(world)
    assert (found.started, found.displaced, found.waiting) == ((a_workload(2).id,), (), 1)


def test_removing_a_node_moves_what_may_restart_and_fails_the_rest(world: World) -> None:
    world.attach()
    started(world, 1, restart=AGAIN)
    started(world, 2)
    world.attach(a_node(2))
    found = what_if(world, remove_nodes=(N1,))
    assert found.displaced_total == 2
    moved, lost = found.displaced
    assert (moved.node_id, moved.moved_to, moved.phase) == (N1, N2, Phase.RUNNING)
    assert (lost.moved_to, lost.phase) == (None, Phase.FAILED)


def test_draining_a_node_without_room_elsewhere_leaves_its_work_waiting(world: World) -> None:
    world.attach()
    started(world, 1, restart=AGAIN)
    (found,) = what_if(world, drain_nodes=(N1,)).displaced
    assert (found.moved_to, found.phase, found.message) == (None, Phase.PENDING, "its node was drained")


def test_a_copy_of_a_model_is_shown_where_its_replacement_would_be(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    started(world, 1, payload=ModelServer(model=a_model()), restart=AGAIN)
    world.attach(a_node(2))
    (found,) = what_if(world, drain_nodes=(N1,)).displaced
    assert (found.workload_id, found.moved_to, found.phase) == (a_workload(1).id, N2, Phase.RUNNING)


def test_a_cordoned_and_an_unhealthy_node_take_nothing_in_a_simulation_either(world: World) -> None:
    world.attach()
    world.later(20)
    world.attach(a_node(2))
    world.handle(SetNodeScheduling(node_id=N2, cordoned=True))
    (found,) = what_if(world, submit=(a_workload(1),)).submitted
    assert found.explanation is not None
    assert [refusal.filter for refusal in found.explanation.refusals] == ["attached", "schedulable"]


def test_work_of_others_is_counted_and_not_named(world: World) -> None:
    world.attach()
    started(world, 1, restart=AGAIN)
    started(world, 2, restart=AGAIN, origin=Origin(facade="rest", account=AccountId("ana")))
    found = what_if(world, drain_nodes=(N1,), account=AccountId("ana"))
    assert (found.displaced_total, [each.workload_id for each in found.displaced]) == (2, [a_workload(2).id])


@pytest.mark.parametrize("member", ["remove_nodes", "drain_nodes"])
def test_a_node_that_there_is_not_is_named(world: World, member: str) -> None:
    with pytest.raises(NotFoundError) as refused:
        what_if(world, **{member: (NodeId("nobody"),)})
    assert refused.value.field == {"remove_nodes": "removeNodes", "drain_nodes": "drainNodes"}[member]


def test_too_much_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        check(Simulate(submit=tuple(map(a_workload, range(MOST_SUBMISSIONS + 1)))))
    assert refused.value.field == "submit"


def test_a_simulation_can_be_given_up_between_its_steps(world: World) -> None:
    world.attach()

    def give_up() -> None:
        raise DeadlineExceededError

    taken = image(world.cluster.state, world.now)
    with pytest.raises(DeadlineExceededError):
        simulate(taken, world.cluster.policy, Simulate(submit=(a_workload(1),)), give_up)


def test_the_copy_does_not_follow_the_live_state(world: World) -> None:
    world.attach()
    taken = image(world.cluster.state, world.now)
    world.submit(a_workload(1, demand=Demand(cpu_milli=8000)))
    found = simulate(taken, world.cluster.policy, Simulate(submit=(a_workload(2),)), lambda: None)
    assert found.submitted[0].node_id == N1


def test_a_simulation_goes_on_in_small_steps(world: World) -> None:
    """Whoever runs it can rest between them: after 20 placements, and after each explanation."""
    for number in range(200):
        world.submit(a_workload(number, demand=Demand(cpu_milli=1_000)))
    taken, steps = image(world.cluster.state, world.now), 0

    def count() -> None:
        nonlocal steps
        steps += 1

    nodes = tuple(a_node(number) for number in range(100, 125))
    impossible = tuple(a_workload(number, demand=Demand(cpu_milli=10**6)) for number in range(1_000, 1_050))
    found = simulate(taken, world.cluster.policy, Simulate(add_nodes=nodes, submit=impossible), count)
    assert (found.started_total, found.waiting) == (200, 50)
    told, placed, added, submitted = 50, 200 // 20 + 200, 25, 50
    assert steps >= told + placed + added + submitted
