"""Who is ended for whom, what is kept meanwhile, and how it resolves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.commands import DetachNode, ReportPhase, SetNodeScheduling, SetQuota
from arcray.core.errors import IllegalTransitionError, InvalidArgumentError
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.queries import ExplainWorkload
from arcray.core.quota import Quota
from arcray.core.resources import Demand
from arcray.core.workload import Origin, Phase, Priority, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

WHOLE_NODE = Demand(cpu_milli=8000)
HALF_NODE = Demand(cpu_milli=4000)
IMPATIENT = ClusterPolicy(preemption_grace=timedelta(seconds=2), preemption_patience=timedelta(seconds=8))


def background(number: int, demand: Demand = WHOLE_NODE, **fields: Any) -> WorkloadSpec:
    return a_workload(number, demand=demand, priority=Priority.BACKGROUND, preemptible=True, **fields)


def critical(number: int, demand: Demand = WHOLE_NODE, **fields: Any) -> WorkloadSpec:
    return a_workload(number, demand=demand, priority=Priority.CRITICAL, **fields)


def workload_id(number: int) -> WorkloadId:
    return a_workload(number).id


def preempted(outcome_events: tuple[ev.Event, ...]) -> list[WorkloadId]:
    return [event.workload_id for event in outcome_events if isinstance(event, ev.WorkloadPreempted)]


def notes(world: World, number: int) -> str:
    answer = world.cluster.answer(ExplainWorkload(workload_id=workload_id(number)), world.now)
    assert isinstance(answer, WorkloadExplanation)
    return "; ".join(answer.placement.notes)


def explanation(world: World, number: int, account: AccountId | None = None) -> str:
    answer = world.cluster.answer(ExplainWorkload(workload_id=workload_id(number), account=account), world.now)
    assert isinstance(answer, WorkloadExplanation)
    return answer.sentence()


def test_work_of_a_lower_priority_is_asked_to_end_with_its_grace_for_work_that_fits_nowhere(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    outcome = world.run_round()
    (order,) = outcome.orders
    assert order.order == StopAttempt(workload_id=workload_id(1), attempt=1, grace_s=30.0, created_s=T0.timestamp())
    event = outcome.events[0]
    assert isinstance(event, ev.WorkloadPreempted)
    assert (event.by, event.durable) == (workload_id(2), True)
    assert event.reason == f"preempted for critical workload {workload_id(2)}"
    assert world.workload(workload_id(1)).phase is Phase.STOPPING
    assert world.workload(workload_id(2)).phase is Phase.PENDING


def test_the_preemptor_starts_in_the_turn_in_which_its_victim_has_ended(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    outcome = world.report(world.workload(workload_id(1)), Phase.STOPPED)
    (order,) = outcome.orders
    assert isinstance(order.order, StartWorkload)
    assert order.order.workload_id == workload_id(2)
    assert world.workload(workload_id(2)).phase is Phase.PLACED


def test_a_victim_waits_for_another_attempt_that_does_not_count_as_a_restart(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    victim = world.workload(workload_id(1))
    assert (victim.phase, victim.restarts, victim.preemptions, victim.eviction) == (Phase.PENDING, 0, 1, None)
    world.succeed(world.workload(workload_id(2)))
    world.run_round()
    assert (victim.phase, victim.attempt) == (Phase.PLACED, 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"preemptible": False}, "it does not allow it"),
        ({"priority": Priority.CRITICAL}, "its priority is the same"),
    ],
)
def test_no_other_work_is_preempted(world: World, fields: dict[str, Any], why: str) -> None:
    world.attach()
    spec: dict[str, Any] = {"priority": Priority.BACKGROUND, "preemptible": True, "demand": WHOLE_NODE} | fields
    world.submit(a_workload(1, **spec))
    world.submit(critical(2))
    assert world.run_round().events == (), why


def test_nothing_is_preempted_for_work_that_would_not_fit_afterwards(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2, Demand(cpu_milli=9000)))
    world.submit(critical(3, WHOLE_NODE, node_id=None, selector=(("zone", "eu"),)))
    assert world.run_round().events == ()


def test_nothing_is_preempted_while_the_work_fits_elsewhere(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.attach(a_node(2))
    world.submit(critical(2))
    world.run_round()
    assert world.workload(workload_id(2)).node_id == node_id(2)
    assert world.workload(workload_id(1)).phase is Phase.PLACED


def test_work_that_asks_for_no_more_room_than_needed_is_spared(world: World) -> None:
    world.attach()
    for number in range(1, 5):
        world.submit(background(number, Demand(cpu_milli=2000)))
    world.submit(critical(5, HALF_NODE))
    assert len(preempted(world.run_round().events)) == 2


def test_background_work_is_preempted_before_normal_work(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.submit(a_workload(1, demand=WHOLE_NODE, preemptible=True))
    for number in (2, 3):
        world.submit(background(number, HALF_NODE))
    world.submit(critical(4))
    assert preempted(world.run_round().events) == [workload_id(2), workload_id(3)]


def test_the_fewest_workloads_are_preempted(world: World) -> None:
    world.attach()
    world.submit(background(1, HALF_NODE))
    world.submit(background(2, HALF_NODE))
    world.later(5)
    world.attach(a_node(2))
    world.submit(background(3))
    world.submit(critical(4))
    assert preempted(world.run_round().events) == [workload_id(3)]


def test_the_youngest_work_is_preempted_of_equal_ones(world: World) -> None:
    world.attach()
    world.submit(background(1, HALF_NODE))
    world.later(5)
    world.submit(background(2, HALF_NODE))
    world.submit(critical(3, HALF_NODE))
    assert preempted(world.run_round().events) == [workload_id(2)]


def test_the_node_where_fewer_gpus_are_broken_is_taken_of_equal_ones(world: World) -> None:
    for number, gpus in ((1, 2), (2, 1)):
        world.attach(a_node(number, capacity=a_capacity(gpus=gpus)))
        world.submit(background(number, Demand(cpu_milli=8000, gpus=gpus), node_id=node_id(number)))
        world.run_round()
    world.submit(critical(3, Demand(cpu_milli=1000, gpus=1)))
    assert preempted(world.run_round().events) == [workload_id(2)]


def test_nobody_else_is_given_what_is_kept_for_a_preemptor(world: World) -> None:
    world.attach()
    world.submit(background(1, HALF_NODE))
    world.submit(critical(2, Demand(cpu_milli=6000)))
    world.run_round()
    world.submit(critical(3, HALF_NODE))  # would fit into what is free, half of which is promised
    assert world.run_round().events == ()
    world.submit(critical(4, Demand(cpu_milli=2000)))  # fits into the rest
    world.run_round()
    assert world.workload(workload_id(4)).phase is Phase.PLACED
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    assert world.workload(workload_id(2)).phase is Phase.PLACED
    assert world.workload(workload_id(3)).phase is Phase.PENDING


def test_a_gpu_is_given_only_after_the_end_of_its_holder_was_reported(world: World) -> None:
    world.attach(a_node(1, capacity=a_capacity(gpus=2)))
    shared = Demand(cpu_milli=1000, gpus=1, gpu_memory_bytes=40 * GIB)
    world.submit(background(1, Demand(cpu_milli=1000, gpus=1)))
    for number in (2, 3):
        world.submit(background(number, shared))
    world.submit(critical(4, Demand(cpu_milli=1000, gpus=2)))
    assert len(preempted(world.run_round().events)) == 3
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    world.submit(a_workload(5, demand=shared))  # half of that device is free, and promised
    world.run_round()
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    assert world.workload(workload_id(4)).phase is Phase.PENDING
    world.report(world.workload(workload_id(3)), Phase.STOPPED)
    assert world.workload(workload_id(4)).phase is Phase.PLACED
    assert world.workload(workload_id(5)).phase is Phase.PENDING


def test_a_preemptor_that_is_stopped_meanwhile_leaves_the_room_to_others(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.stop(workload_id(2))
    assert world.workload(workload_id(2)).phase is Phase.STOPPED
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    world.run_round()
    assert world.workload(workload_id(1)).phase is Phase.PLACED


def test_a_node_that_is_lost_meanwhile_leaves_both_waiting(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.later(200)
    victim, preemptor = world.workload(workload_id(1)), world.workload(workload_id(2))
    assert (victim.phase, victim.restarts) == (Phase.PENDING, 0)
    assert (preemptor.phase, preemptor.claim) == (Phase.PENDING, None)
    world.attach(a_node(2))
    world.run_round()
    assert (preemptor.phase, victim.phase) == (Phase.PLACED, Phase.PENDING)


def test_a_node_that_leaves_or_is_cordoned_meanwhile_is_not_used(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(background(number))
        world.submit(critical(number + 2, node_id=node_id(number)))
        world.run_round()
    world.handle(DetachNode(node_id=node_id(1), epoch=1))
    world.handle(SetNodeScheduling(node_id=node_id(2), cordoned=True))
    world.report(world.workload(workload_id(2)), Phase.STOPPED)
    for number in (3, 4):
        assert world.workload(workload_id(number)).phase is Phase.PENDING
        assert world.workload(workload_id(number)).claim is None


def test_a_victim_that_was_done_before_it_was_told_has_succeeded(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.succeed(world.workload(workload_id(1)))
    assert world.workload(workload_id(1)).phase is Phase.SUCCEEDED
    assert world.workload(workload_id(2)).phase is Phase.PLACED


def test_a_victim_that_is_stopped_meanwhile_does_not_start_again(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.stop(workload_id(1))
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    assert world.workload(workload_id(1)).phase is Phase.STOPPED
    assert world.workload(workload_id(2)).phase is Phase.PLACED


def test_a_victim_is_not_preempted_twice_for_two_that_wait(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.submit(critical(3))
    assert preempted(world.run_round().events) == [workload_id(1)]
    assert preempted(world.run_round().events) == []


def test_what_was_preempted_preempts_nobody_in_its_turn(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.submit(a_workload(1, demand=WHOLE_NODE, preemptible=True, node_id=node_id(1)))
    world.submit(critical(2, node_id=node_id(1)))
    world.run_round()
    world.submit(background(3, node_id=node_id(2)))
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    world.submit(a_workload(4, demand=WHOLE_NODE))
    events = world.run_round().events
    assert [event.by for event in events if isinstance(event, ev.WorkloadPreempted)] == [workload_id(4)]


def test_a_late_report_of_a_phase_of_a_victim_is_refused_and_changes_nothing(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    late = ReportPhase(node_id=node_id(1), epoch=1, workload_id=workload_id(1), attempt=1, phase=Phase.RUNNING)
    with pytest.raises(IllegalTransitionError):
        world.handle(late)


def test_explain_says_what_would_be_preempted_and_what_is_waited_for(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    assert f"would preempt {workload_id(1)} on node {node_id(1)}" in explanation(world, 2)
    world.run_round()
    assert f"is kept for it until what was preempted there has ended: {workload_id(1)}" in explanation(world, 2)
    assert "if that has not ended by 2026-" in explanation(world, 2)


def test_explain_names_the_work_of_others_to_nobody_but_operators(world: World) -> None:
    ana, bo = AccountId("ana"), AccountId("bo")
    world.attach()
    world.submit(background(1, origin=Origin(facade="rest", account=ana)))
    world.submit(critical(2, origin=Origin(facade="rest", account=bo)))
    assert f"would preempt 1 of other accounts on node {node_id(1)}" in explanation(world, 2, bo)
    assert f"would preempt {workload_id(1)} on node {node_id(1)}" in explanation(world, 2)
    world.run_round()
    assert "until what was preempted there has ended: 1 of other accounts;" in explanation(world, 2, bo)
    assert workload_id(1) in explanation(world, 2)
    assert workload_id(2) not in explanation(world, 1, ana)
    assert f"was preempted for {workload_id(2)}" in explanation(world, 1)
    eviction = world.workload(workload_id(1)).eviction
    assert eviction is not None
    assert eviction.reason == "preempted for work of a higher priority"  # what is stored is read by ana


def test_explain_says_nothing_of_preemption_while_the_quota_of_an_account_is_used_up(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.handle(SetQuota(account=critical(2).origin.account, quota=Quota(workloads=1)))
    world.submit(critical(2))
    assert "waits for its quota" in explanation(world, 2)
    assert "would preempt" not in notes(world, 2)
    world.run_round()
    assert world.workload(workload_id(1)).phase is Phase.PLACED
    world.handle(SetQuota(account=critical(2).origin.account, quota=Quota()))
    assert "would preempt" in notes(world, 2)


def test_explain_says_nothing_of_preemption_during_a_back_off(world: World) -> None:
    world.attach()
    world.submit(critical(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.report(world.workload(workload_id(1)), Phase.FAILED)
    world.submit(background(2))
    assert "would preempt" not in notes(world, 1)
    world.later(1)
    assert "would preempt" in notes(world, 1)


@pytest.mark.parametrize("policy", [IMPATIENT])
def test_a_preemptor_whose_victim_does_not_end_waits_for_any_place_again(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.later(9)
    assert world.workload(workload_id(2)).claim is not None
    world.later(1)
    assert world.workload(workload_id(2)).claim is None
    assert (world.workload(workload_id(1)).phase, world.run_round().events) == (Phase.STOPPING, ())
    world.attach(a_node(2))
    world.run_round()
    assert world.workload(workload_id(2)).node_id == node_id(2)


@pytest.mark.parametrize("policy", [IMPATIENT])
def test_a_preemptor_whose_victim_does_not_end_may_have_other_work_ended(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.attach(a_node(2))
    world.submit(background(3))
    world.run_round()
    world.later(10)
    assert preempted(world.run_round().events) == [workload_id(3)]


@pytest.mark.parametrize("policy", [IMPATIENT])
def test_a_victim_that_ends_after_its_preemptor_has_given_up_starts_again(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.later(10)
    world.report(world.workload(workload_id(1)), Phase.STOPPED)
    world.run_round()
    assert [world.workload(workload_id(n)).phase for n in (1, 2)] == [Phase.PENDING, Phase.PLACED]


@pytest.mark.parametrize("policy", [IMPATIENT])
def test_how_long_a_place_is_kept_does_not_begin_anew_at_recovery(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.submit(critical(2))
    world.run_round()
    world.later(8)
    after = world.recovered()
    after.later(1)
    assert after.workload(workload_id(2)).claim is not None
    after.later(1)
    assert after.workload(workload_id(2)).claim is None


def refuse(world: World, number: int, seconds: float = 10) -> None:
    """Has the node of a workload refuse it, and lets its back-off pass."""
    world.report(world.workload(workload_id(number)), Phase.FAILED, refused=True)
    world.later(seconds)


def test_nothing_is_ended_on_a_node_that_refused_the_work_while_it_can_be_elsewhere(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(background(number))
        world.run_round()
    world.submit(critical(3))
    first, second = (world.workload(workload_id(number)) for number in (1, 2))
    (victim_id,) = preempted(world.run_round().events)
    victim, other = (first, second) if victim_id == first.id else (second, first)
    world.report(victim, Phase.STOPPED)
    refuse(world, 3)
    outcome = world.run_round()
    assert preempted(outcome.events) == [other.id]
    assert victim.phase is Phase.PLACED, "what the preemptor was refused is free for others"


def test_work_is_ended_elsewhere_before_a_workload_goes_back_to_a_node_that_refused_it(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.attach(a_node(2))
    world.submit(critical(2))
    refuse(world, 2)
    assert preempted(world.run_round().events) == [workload_id(1)]
    assert world.workload(workload_id(2)).refused_by == {node_id(2)}


def test_what_nothing_else_helps_goes_back_to_the_node_that_refused_it(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE))
    world.attach(a_node(2))
    world.submit(critical(2))
    refuse(world, 2)
    world.run_round()
    assert world.workload(workload_id(2)).node_id == node_id(2)


def test_what_nothing_else_helps_has_work_ended_on_the_node_that_refused_it(world: World) -> None:
    world.attach()
    world.submit(critical(2))
    world.report(world.workload(workload_id(2)), Phase.FAILED, refused=True)
    world.submit(background(1))
    world.later(10)
    assert preempted(world.run_round().events) == [workload_id(1)]


@pytest.mark.parametrize("policy", [ClusterPolicy(preemption_searches=1)])
def test_a_workload_does_not_go_back_before_it_had_its_turn_to_have_work_ended(world: World) -> None:
    world.attach()
    world.submit(background(1))
    world.attach(a_node(2))
    world.submit(critical(2))
    refuse(world, 2, seconds=0.5)
    world.submit(critical(3, Demand(cpu_milli=9000)))  # in vain, but first
    world.later(5)
    assert preempted(world.run_round().events) == []
    assert world.workload(workload_id(2)).phase is Phase.PENDING
    assert world.cluster.needs_round
    assert preempted(world.run_round().events) == [workload_id(1)]


def test_work_that_may_preempt_does_not_stand_behind_its_equal_that_may_not(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE, preemptible=True))
    world.attach(a_node(2))
    world.submit(background(2))
    world.submit(critical(3, node_id=node_id(1)))
    world.run_round()
    world.report(world.workload(workload_id(1)), Phase.STOPPED)  # preempted once, so it preempts nobody
    world.submit(a_workload(4, demand=WHOLE_NODE))
    assert preempted(world.run_round().events) == [workload_id(2)]
    assert world.workload(workload_id(4)).claim is not None


def test_an_inference_request_is_not_preemptible(world: World) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        world.submit(a_workload(1, an_inference(), preemptible=True))
    assert refused.value.field == "preemptible"


@pytest.mark.parametrize("policy", [ClusterPolicy(preemption_searches=1)])
def test_those_who_had_no_turn_in_a_round_are_first_in_the_next(world: World) -> None:
    world.attach()
    world.attach(a_node(2, capacity=a_capacity(cores=4)))
    world.submit(background(1, HALF_NODE, node_id=node_id(2)))
    world.submit(background(2, node_id=node_id(1)))
    world.run_round()
    world.submit(critical(3, Demand(cpu_milli=9000)))  # in vain
    world.submit(critical(4, Demand(cpu_milli=7000)))
    world.submit(critical(5, Demand(cpu_milli=3000)))
    rounds = []
    while world.cluster.needs_round:
        rounds.append(preempted(world.run_round().events))
    assert rounds == [[], [workload_id(2)], [workload_id(1)]]
