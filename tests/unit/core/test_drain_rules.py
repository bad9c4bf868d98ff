"""Cordons and drains: what takes no new work, what of the old work moves and how, and when a drain is done."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.commands import DetachNode, DrainNode, RegisterModel, Running, SetNodeScheduling
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.node import Drain
from arcray.core.orders import StopAttempt
from arcray.core.outlook import explain
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.core.turn import Outcome
from arcray.core.workload import ModelServer, Phase, RestartPolicy, RestartRule, Workload, WorkloadSpec
from arcray.testing.builders import a_capacity, a_model, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

N1, N2 = node_id(1), node_id(2)
W1 = a_workload(1).id
AGAIN = RestartPolicy(rule=RestartRule.ON_FAILURE)
GPU_NODE = a_node(1, capacity=a_capacity(gpus=2))
ONE_GPU = Demand(gpus=1)


def cause_of(workload: Workload) -> Cause | None:
    return None if workload.eviction is None else workload.eviction.cause


def drain(world: World, **options: Any) -> Outcome:
    return world.handle(DrainNode(node_id=N1, **options))


def drain_of(world: World) -> Drain:
    found = world.cluster.state.nodes[N1].drain
    assert found is not None
    return found


def is_done(world: World) -> bool:
    return drain_of(world).done_at is not None


def running(world: World, number: int = 1, **fields: Any) -> Workload:
    world.submit(a_workload(number, **fields))
    world.run_round()
    workload = world.workload(a_workload(number).id)
    world.report(workload, Phase.RUNNING)
    return workload


def a_copy(number: int = 1, **fields: Any) -> WorkloadSpec:
    return a_workload(number, ModelServer(model=a_model()), restart=AGAIN, **fields)


def stops(outcome: Outcome) -> list[tuple[WorkloadId, float]]:
    return [
        (order.order.workload_id, order.order.grace_s)
        for order in outcome.orders
        if isinstance(order.order, StopAttempt)
    ]


# -- cordons of single GPUs --------------------------------------------------------------------------------------------


def test_a_cordoned_gpu_takes_nothing_new_and_keeps_what_runs_on_it(world: World) -> None:
    world.attach(GPU_NODE)
    first = running(world, demand=ONE_GPU)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({0})))
    second = running(world, 2, demand=ONE_GPU)
    world.submit(a_workload(3, demand=ONE_GPU))
    assert first.allocation is not None
    assert second.allocation is not None
    assert (first.allocation.gpus[0].index, second.allocation.gpus[0].index) == (0, 1)
    world.succeed(first)
    world.run_round()
    assert world.workload(a_workload(3).id).phase is Phase.PENDING
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False, gpus=frozenset({0})))
    world.run_round()
    assert world.workload(a_workload(3).id).phase is Phase.PLACED


def test_cordons_of_gpus_add_up_and_are_told_as_what_holds_now(world: World) -> None:
    world.attach(GPU_NODE)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({0})))
    (event,) = world.handle(SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({0, 1}))).events
    assert isinstance(event, ev.NodeSchedulingChanged)
    assert (event.cordoned, event.cordoned_gpus) == (False, frozenset({0, 1}))
    assert world.handle(SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({1}))).events == ()


@pytest.mark.parametrize("command", [SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({7})), None])
def test_a_gpu_that_the_node_does_not_have_is_refused(world: World, command: SetNodeScheduling | None) -> None:
    world.attach(GPU_NODE)
    with pytest.raises(InvalidArgumentError, match=r"has no GPU 7; it has 0, 1") as refused:
        world.handle(command or DrainNode(node_id=N1, gpus=frozenset({7})))
    assert refused.value.field == "gpus"


def test_cordons_outlast_another_attachment(world: World) -> None:
    world.attach(GPU_NODE)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=True, gpus=frozenset({0, 1})))
    world.attach(GPU_NODE)
    world.submit(a_workload(1, demand=ONE_GPU))
    assert world.workload(W1).phase is Phase.PENDING


# -- drains ------------------------------------------------------------------------------------------------------------


def test_an_idle_node_is_drained_at_once(world: World) -> None:
    world.attach()
    drain(world)
    assert is_done(world)
    world.submit(a_workload(1))
    assert world.workload(W1).phase is Phase.PENDING


def test_restartable_work_is_stopped_with_grace_and_goes_on_elsewhere_without_counting_as_a_restart(
    world: World,
) -> None:
    world.attach()
    work = running(world, restart=AGAIN)
    world.attach(a_node(2))
    outcome = drain(world, grace_s=7.0)
    assert stops(outcome) == [(W1, 7.0)]
    assert (work.phase, cause_of(work), is_done(world)) == (Phase.STOPPING, Cause.DRAIN, False)
    world.report(work, Phase.STOPPED)
    assert is_done(world)
    world.run_round()
    assert (work.phase, work.node_id, work.attempt, work.restarts) == (Phase.PLACED, N2, 2, 0)
    assert work.eviction is None
    assert [(record.attempt, record.node_id) for record in work.attempts()] == [(1, N1)]


def test_work_that_succeeds_while_it_is_moved_has_succeeded(world: World) -> None:
    world.attach()
    work = running(world, restart=AGAIN)
    drain(world)
    world.succeed(work)
    assert work.phase is Phase.SUCCEEDED


def test_work_that_may_not_run_twice_is_waited_for(world: World) -> None:
    world.attach()
    work = running(world)
    assert stops(drain(world)) == []
    world.later(3600)  # its node is heard no more, which is not what this is about
    assert work.eviction is None


def test_what_is_left_at_the_deadline_is_stopped_and_is_a_dead_letter(world: World) -> None:
    world.attach()
    work = running(world)
    drain(world, deadline_s=10.0, grace_s=3.0)
    assert world.later(9.9) == ()
    outcome = world.later(0.2)
    assert [type(event) for event in outcome] == [ev.NodeDrainChanged, ev.WorkloadEvicted]
    assert not is_done(world)
    world.report(work, Phase.STOPPED)
    assert (work.phase, work.message) == (Phase.FAILED, "its node was drained before it ended")
    assert work.dead
    assert is_done(world)


def test_work_that_is_bound_to_its_node_is_waited_for_too(world: World) -> None:
    world.attach()
    running(world, restart=AGAIN, node_id=N1)
    assert stops(drain(world)) == []


def test_work_that_is_bound_to_its_node_moves_to_another_gpu_of_it(world: World) -> None:
    world.attach(GPU_NODE)
    work = running(world, demand=ONE_GPU, restart=AGAIN, node_id=N1)
    assert stops(drain(world, gpus=frozenset({0}))) == [(W1, 30.0)]
    world.report(work, Phase.STOPPED)
    world.run_round()
    assert work.allocation is not None
    assert [share.index for share in work.allocation.gpus] == [1]


def test_a_deadline_of_nothing_stops_at_once(world: World) -> None:
    world.attach()
    running(world)
    assert stops(drain(world, deadline_s=0.0)) == [(W1, 30.0)]


def test_the_owner_may_stop_work_that_is_being_moved_and_then_it_is_not(world: World) -> None:
    world.attach()
    work = running(world, restart=AGAIN)
    drain(world)
    world.stop(W1)
    world.report(work, Phase.STOPPED)
    assert work.phase is Phase.STOPPED


def test_a_drained_node_that_is_lost_moves_its_work_all_the_same(world: World) -> None:
    world.attach()
    work = running(world, restart=AGAIN)
    drain(world)
    world.handle(DetachNode(node_id=N1, epoch=1))
    assert (work.phase, work.restarts, is_done(world)) == (Phase.PENDING, 0, True)


def test_work_being_moved_is_stopped_again_when_its_node_comes_back(world: World) -> None:
    world.attach()
    running(world, restart=AGAIN)
    drain(world)
    found = (Running(workload_id=W1, attempt=1),)
    assert stops(world.attach_with(found)) == [(W1, 0.0)]


def test_a_drain_of_one_gpu_moves_the_work_on_it_and_no_other(world: World) -> None:
    world.attach(GPU_NODE)
    first = running(world, 1, demand=ONE_GPU, restart=AGAIN)
    running(world, 2, demand=ONE_GPU, restart=AGAIN)
    running(world, 3, restart=AGAIN)
    assert stops(drain(world, gpus=frozenset({0}))) == [(W1, 30.0)]
    world.report(first, Phase.STOPPED)
    assert is_done(world)
    node = world.cluster.state.nodes[N1]
    assert (node.schedulable, node.cordoned_gpus) == (True, frozenset({0}))


def test_requests_in_flight_are_left_to_their_end(world: World) -> None:
    world.attach()
    world.load(N1)
    world.submit(a_workload(1, an_inference(), waiting=True))
    assert stops(drain(world)) == []
    assert not is_done(world)
    world.succeed(world.workload(W1))
    assert is_done(world)


def test_uncordoning_calls_a_drain_off(world: World) -> None:
    world.attach()
    running(world)
    drain(world, deadline_s=10.0)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    assert world.cluster.state.nodes[N1].drain is None
    world.later(11)
    assert world.workload(W1).eviction is None
    world.submit(a_workload(2))
    assert world.workload(a_workload(2).id).phase is Phase.PLACED


def test_uncordoning_one_gpu_takes_it_out_of_a_drain(world: World) -> None:
    world.attach(GPU_NODE)
    running(world, demand=Demand(gpus=2))
    drain(world, gpus=frozenset({0, 1}))
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False, gpus=frozenset({0})))
    assert drain_of(world).gpus == {1}


def test_drains_of_gpus_add_up_and_one_of_the_node_is_about_all_of_it(world: World) -> None:
    world.attach(GPU_NODE)
    drain(world, gpus=frozenset({0}))
    drain(world, gpus=frozenset({1}))
    assert drain_of(world).gpus == {0, 1}
    drain(world)
    assert drain_of(world).gpus == frozenset()
    assert not world.cluster.state.nodes[N1].schedulable


@pytest.mark.parametrize("options", [{"deadline_s": -1.0}, {"deadline_s": float("nan")}, {"grace_s": -1.0}])
def test_times_that_are_none_are_refused(world: World, options: dict[str, float]) -> None:
    world.attach()
    with pytest.raises(InvalidArgumentError):
        drain(world, **options)


def test_an_unknown_node_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError):
        drain(world)


# -- copies of models --------------------------------------------------------------------------------------------------


def served(world: World) -> Workload:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    world.submit(a_copy())
    copy = world.workload(W1)
    world.report(copy, Phase.RUNNING)
    return copy


def being_replaced(world: World) -> tuple[Workload, Workload]:
    """Drains the node of a copy; returns the copy and the one that is being loaded on another node."""
    copy = served(world)
    world.attach(a_node(2))
    drain(world)
    world.run_round()
    return copy, world.replacement(copy)


def test_a_copy_of_a_model_is_loaded_elsewhere_before_it_ends(world: World) -> None:
    copy = served(world)
    world.attach(a_node(2))
    assert stops(drain(world)) == []
    world.run_round()
    another = world.replacement(copy)
    assert (another.node_id, copy.phase) == (N2, Phase.RUNNING)
    outcome = world.report(another, Phase.RUNNING)
    assert stops(outcome) == [(W1, 30.0)]
    world.report(copy, Phase.STOPPED)
    assert (copy.phase, copy.dead, is_done(world)) == (Phase.STOPPED, False, True)
    assert another.phase is Phase.RUNNING


def test_a_copy_with_no_room_elsewhere_stays_until_the_deadline_and_its_replacement_waits(world: World) -> None:
    copy = served(world)
    drain(world, deadline_s=60.0)
    world.run_round()
    another = world.replacement(copy)
    assert (copy.phase, another.phase) == (Phase.RUNNING, Phase.PENDING)
    world.later(61)
    world.attach(a_node(2))
    world.report(copy, Phase.STOPPED)
    world.run_round()
    assert (copy.phase, another.node_id) == (Phase.STOPPED, N2)


def test_draining_again_loads_no_second_replacement(world: World) -> None:
    served(world)
    drain(world)
    drain(world)
    assert len(world.cluster.state.workloads) == 2


def test_a_replacement_that_nobody_needs_any_more_is_stopped(world: World) -> None:
    copy = served(world)
    drain(world)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    assert world.replacement(copy).phase is Phase.STOPPED
    assert copy.phase is Phase.RUNNING


def test_a_copy_goes_on_alone_whose_node_leaves_while_what_was_to_replace_it_still_ends(world: World) -> None:
    copy, another = being_replaced(world)
    world.report(another, Phase.STARTING)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    world.handle(DetachNode(node_id=N1, epoch=1, reason="off"))
    assert (copy.phase, another.phase, another.stop_requested) == (Phase.PENDING, Phase.STOPPING, True)
    world.cluster.state.check_invariants()
    world.report(another, Phase.STOPPED)
    world.later(60)
    world.run_round()
    assert list(world.cluster.state.copies) == [copy.id]


def test_a_drain_that_was_called_off_can_be_repeated(world: World) -> None:
    copy = served(world)
    drain(world)
    first = world.replacement(copy)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    world.attach(a_node(2))
    drain(world)
    world.run_round()
    second = world.replacement(copy)
    assert (first.phase, second.phase, second.node_id) == (Phase.STOPPED, Phase.PLACED, N2)
    world.report(second, Phase.RUNNING)
    world.report(copy, Phase.STOPPED)
    assert (copy.message, is_done(world)) == (f"its node was drained: replaced by {second.id}", True)


def test_a_drain_whose_replacement_failed_can_be_repeated(world: World) -> None:
    copy = served(world)
    world.attach(a_node(2))
    drain(world)
    world.stop(world.replacement(copy).id)
    drain(world)
    world.run_round()
    assert (world.replacement(copy).phase, copy.phase) == (Phase.PLACED, Phase.RUNNING)
    assert len(world.cluster.state.workloads) == 3


def test_a_drain_does_not_count_on_a_replacement_that_is_ending(world: World) -> None:
    copy, first = being_replaced(world)
    world.report(first, Phase.RUNNING)  # so the copy is asked to end
    world.stop(first.id)
    assert world.cluster.state.copies.replacement_of(copy.id) is None
    world.report(copy, Phase.STOPPED)
    world.report(first, Phase.STOPPED)
    world.run_round()
    assert (copy.phase, copy.node_id) == (Phase.PLACED, N2)


def test_each_drain_has_another_replacement_while_the_one_before_still_ends(world: World) -> None:
    copy, first = being_replaced(world)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    drain(world)
    second = world.replacement(copy)
    assert (first.phase, second.phase) == (Phase.STOPPING, Phase.PENDING)
    assert world.cluster.state.copies.lasting(copy.spec.payload.model.id) == 1  # type: ignore[union-attr]  # it is one
    world.report(first, Phase.STOPPED)
    assert world.cluster.state.copies.replacement_of(copy.id) is second


def test_no_id_of_a_replacement_is_given_twice_though_it_is_forgotten() -> None:
    world = World(ClusterPolicy(keep_finished=0))
    served(world)
    begun: list[WorkloadId] = []
    for _ in range(3):  # within one instant
        begun += [event.spec.id for event in drain(world).events if isinstance(event, ev.WorkloadSubmitted)]
        world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    assert len(world.cluster.state.workloads) == 1
    assert len(set(begun)) == 3


def test_a_replacement_is_known_after_a_recovery(world: World) -> None:
    copy = served(world)
    drain(world)
    after = world.recovered()
    assert not [event for event in drain(after).events if isinstance(event, ev.WorkloadSubmitted)]
    after.attach(a_node(2))
    after.run_round()
    another = after.replacement(copy)
    assert stops(after.report(another, Phase.RUNNING)) == [(copy.id, 30.0)]
    after.report(after.workload(copy.id), Phase.STOPPED)
    assert (after.workload(copy.id).phase, is_done(after)) == (Phase.STOPPED, True)


def test_a_copy_that_its_owner_stops_is_not_loaded_elsewhere(world: World) -> None:
    copy = served(world)
    drain(world)
    another = world.replacement(copy)
    world.stop(W1)
    assert another.phase is Phase.STOPPED
    world.report(copy, Phase.STOPPED)
    assert (copy.phase, is_done(world)) == (Phase.STOPPED, True)


def test_a_copy_that_its_owner_stops_ends_where_it_is_loaded_already_too(world: World) -> None:
    copy, another = being_replaced(world)
    world.report(another, Phase.RUNNING)
    assert stops(world.stop(W1)) == [(another.id, 10.0)]  # the copy itself has been asked
    world.report(copy, Phase.STOPPED)
    assert stops(world.stop(W1)) == []
    assert (copy.phase, another.phase) == (Phase.STOPPED, Phase.STOPPING)


def test_what_replaces_a_replacement_ends_with_it_when_a_drain_is_called_off(world: World) -> None:
    copy, second = being_replaced(world)
    world.handle(DrainNode(node_id=N2))
    third = world.replacement(second)
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    assert (copy.phase, second.phase, third.phase) == (Phase.RUNNING, Phase.STOPPING, Phase.STOPPED)


def test_an_ended_copy_that_is_stopped_leaves_what_replaced_it_alone(world: World) -> None:
    copy, another = being_replaced(world)
    world.report(another, Phase.RUNNING)
    world.report(copy, Phase.STOPPED)
    world.stop(W1)
    assert another.phase is Phase.RUNNING


def test_a_copy_whose_replacement_failed_goes_elsewhere_itself_at_the_deadline(world: World) -> None:
    copy = served(world)
    world.attach(a_node(2))
    drain(world, deadline_s=10.0)
    world.run_round()
    world.stop(world.replacement(copy).id)
    world.report(world.replacement(copy), Phase.STOPPED)
    world.later(11)
    world.report(copy, Phase.STOPPED)
    world.run_round()
    assert (copy.phase, copy.node_id) == (Phase.PLACED, N2)


def test_a_copy_that_may_not_start_again_does_not_when_its_replacement_ends_before_it(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.handle(RegisterModel(model=a_model()))
    copy = running(world, payload=ModelServer(model=a_model()), node_id=None)
    drain(world)
    world.run_round()
    another = world.replacement(copy)
    world.report(another, Phase.RUNNING)
    world.report(another, Phase.FAILED)
    world.report(copy, Phase.STOPPED)
    assert (copy.phase, copy.message) == (Phase.FAILED, "its node was drained")


def test_a_drain_that_is_asked_for_twice_within_an_instant_is_said_once(world: World) -> None:
    world.attach()
    running(world)
    assert drain(world, deadline_s=5.0).events
    assert drain(world, deadline_s=5.0).events == ()


def placed_elsewhere(world: World) -> tuple[Workload, Workload]:
    """Drains the node of a copy that its node has not begun to load; returns the copy and what replaces it."""
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    world.submit(a_copy())
    drain(world)
    copy = world.workload(W1)
    return copy, world.replacement(copy)


@pytest.mark.parametrize("restart", [RestartPolicy(), AGAIN, RestartPolicy(rule=RestartRule.ALWAYS)])
@pytest.mark.parametrize("loading", [False, True])
def test_a_copy_that_fails_leaves_its_place_to_what_is_loaded_instead(
    world: World, restart: RestartPolicy, *, loading: bool
) -> None:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    copy = running(world, payload=ModelServer(model=a_model()), restart=restart)
    drain(world)
    another = world.replacement(copy)
    if loading:
        world.attach(a_node(2))
        world.run_round()
    world.report(copy, Phase.FAILED, message="out of memory")
    assert (copy.phase, copy.message) == (Phase.STOPPED, f"out of memory: replaced by {another.id}")
    assert (copy.dead, is_done(world)) == (False, True)
    world.attach(a_node(3))
    world.run_round()
    assert another.phase is Phase.PLACED
    assert list(world.cluster.state.copies) == [another.id]


def test_a_copy_whose_drained_node_leaves_goes_on_as_what_replaces_it_alone(world: World) -> None:
    copy = served(world)
    drain(world)
    another = world.replacement(copy)
    world.handle(DetachNode(node_id=N1, epoch=1))
    world.attach(a_node(2))
    world.run_round()
    assert (copy.phase, another.phase, list(world.cluster.state.copies)) == (
        Phase.STOPPED,
        Phase.PLACED,
        [another.id],
    )


def test_a_copy_that_its_drained_node_refuses_is_not_tried_beside_what_replaces_it(world: World) -> None:
    copy, another = placed_elsewhere(world)
    world.report(copy, Phase.FAILED, refused=True)
    assert (copy.phase, another.phase) == (Phase.STOPPED, Phase.PENDING)


def test_a_copy_that_was_not_begun_when_its_node_came_back_is_not_tried_beside_what_replaces_it(world: World) -> None:
    copy, another = placed_elsewhere(world)
    world.attach_with(())
    assert (copy.phase, another.phase) == (Phase.STOPPED, Phase.PENDING)


@pytest.mark.parametrize("restart", [RestartPolicy(), AGAIN])
def test_what_replaces_a_copy_is_tried_again_while_the_drain_waits_for_it(restart: RestartPolicy) -> None:
    world = World(ClusterPolicy(restart_backoff=timedelta(milliseconds=1)))
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    copy = running(world, payload=ModelServer(model=a_model()), restart=restart)
    world.attach(a_node(2))
    drain(world)
    another = world.replacement(copy)
    for failures in range(6):  # more than any policy has here
        world.run_round()
        world.report(another, Phase.FAILED, message="no such file")
        assert (another.phase, another.message) == (Phase.PENDING, "no such file")
        assert another.not_before == world.now + world.cluster.policy.backoff(failures)
        world.later((another.not_before - world.now).total_seconds())
    world.run_round()
    world.report(another, Phase.RUNNING)
    world.report(copy, Phase.STOPPED)
    assert (copy.phase, another.phase, is_done(world)) == (Phase.STOPPED, Phase.RUNNING, True)


def test_what_replaces_a_copy_goes_by_its_own_policy_once_it_does(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.handle(RegisterModel(model=a_model()))
    copy = running(world, payload=ModelServer(model=a_model()))
    world.handle(DrainNode(node_id=copy.node_id or N1))
    world.run_round()
    another = world.replacement(copy)
    world.report(another, Phase.RUNNING)
    world.report(copy, Phase.STOPPED)
    world.report(another, Phase.FAILED)
    assert another.phase is Phase.FAILED


def test_what_replaces_a_replacement_takes_the_place_of_the_copy(world: World) -> None:
    copy, second = being_replaced(world)
    world.handle(DrainNode(node_id=N2))
    third = world.replacement(second)
    world.report(second, Phase.FAILED)  # so the third one is all that the first drain waits for
    assert (second.phase, world.cluster.state.copies.replacement_of(copy.id)) == (Phase.STOPPED, third)
    after = world.recovered()
    for each in (world, after):
        assert each.cluster.state.copies.lasting(a_model().id) == 1
        each.attach(a_node(3))
        each.run_round()
        assert stops(each.report(each.workload(third.id), Phase.RUNNING)) == [(W1, 30.0)]
        each.report(each.workload(W1), Phase.STOPPED)
        assert list(each.cluster.state.copies) == [third.id]
        assert is_done(each)


def test_a_replacement_knows_all_whose_place_it_takes_when_those_between_are_forgotten(world: World) -> None:
    copy, second = being_replaced(world)
    world.handle(DrainNode(node_id=N2))
    third = world.replacement(second)
    assert third.spec.replaced_in_turn == (copy.id,)
    world.report(second, Phase.FAILED)
    world.cluster.discard([second.id])
    after = world.recovered()
    for each in (world, after):
        copies = each.cluster.state.copies
        assert copies.lasting(a_model().id) == 1
        assert copies.replaced_by(each.workload(third.id)) is each.workload(copy.id)
        each.attach(a_node(3))
        each.run_round()
        assert stops(each.report(each.workload(third.id), Phase.RUNNING)) == [(W1, 30.0)]
        each.report(each.workload(W1), Phase.STOPPED)
        assert list(each.cluster.state.copies) == [third.id]
        assert not copies.in_turn(each.workload(third.id))


def test_a_row_that_does_not_say_what_is_replaced_in_turn_is_read_by_those_between(world: World) -> None:
    copy, second = being_replaced(world)
    world.handle(DrainNode(node_id=N2))
    third = world.replacement(second)
    world.report(second, Phase.FAILED)
    third.spec = replace(third.spec, replaced_in_turn=())
    after = world.recovered()
    assert after.cluster.state.copies.replaced_by(after.workload(third.id)) is after.workload(copy.id)


def explained(world: World, workload_id: WorkloadId = W1) -> str:
    return explain(world.cluster.state, world.workload(workload_id), world.now).sentence()


def test_a_copy_says_what_the_drain_of_its_node_waits_for(world: World) -> None:
    copy, another = being_replaced(world)
    world.report(another, Phase.FAILED, message="no such file")
    assert explained(world) == (
        f"it waits for nothing: it is running on node {N1}; "
        f"its node is drained: it ends once {another.id} answers, which is pending: no such file"
    )
    world.stop(another.id)
    assert "nothing is loaded in its place: drain the node again" in explained(world)
    drain(world, deadline_s=60.0)
    world.later(30.0)
    assert "it is stopped at 2026-01-01T00:01:00+00:00 otherwise" in explained(world)
    world.later(30.0)
    assert copy.phase is Phase.STOPPING
    assert "drained" not in explained(world)


def test_work_that_a_drain_waits_for_says_so(world: World) -> None:
    world.attach()
    running(world)
    assert "drained" not in explained(world)
    drain(world)
    assert explained(world).endswith("its node is drained, and it may not go on elsewhere: its end is waited for")
