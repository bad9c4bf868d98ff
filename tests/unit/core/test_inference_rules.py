from __future__ import annotations

from datetime import timedelta

import pytest

from arcray.core import events as ev
from arcray.core.commands import DetachNode, Heard, ReportModels, ReportTelemetry
from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.core.ids import ModelId
from arcray.core.model import ModelSlots
from arcray.core.orders import RunInference, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ClusterStats, GetStats
from arcray.core.workload import Inference, Phase, Priority, Result, WorkloadSpec
from arcray.testing.builders import T0, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World


def request(number: int, **fields: object) -> WorkloadSpec:
    return a_workload(number, an_inference(), waiting=True, **fields)


R1 = request(1).id


def ready(world: World, slots: int = 1) -> None:
    world.attach()
    world.load(node_id(1), slots)


def test_a_request_goes_to_a_node_that_answers_for_its_model(world: World) -> None:
    ready(world)
    outcome = world.submit(request(1))
    (order,) = outcome.orders
    assert isinstance(order.order, RunInference)
    assert (order.node_id, order.order.workload_id) == (node_id(1), R1)
    assert (outcome.reply, outcome.awaits) == (None, R1)


def test_only_the_end_of_a_request_whose_sender_waits_is_durable_and_carries_all_of_it(world: World) -> None:
    ready(world)
    assert not any(event.durable for event in world.submit(request(1)).events)
    *before, end = world.succeed(world.workload(R1)).events
    assert not any(event.durable for event in before)
    assert isinstance(end, ev.WorkloadFinished)
    assert end.durable
    assert end.spec == request(1)
    assert end.node_id == node_id(1)


def test_a_request_that_nobody_waits_for_is_durable_from_the_start(world: World) -> None:
    ready(world)
    outcome = world.submit(a_workload(1, an_inference()))
    assert all(event.durable for event in outcome.events)
    assert outcome.awaits is None


def test_the_end_of_a_request_says_first_that_it_was_processed(world: World) -> None:
    ready(world)
    world.submit(request(1))
    events = world.succeed(world.workload(R1)).events
    assert [type(event) for event in events] == [ev.WorkloadPhaseChanged, ev.WorkloadFinished]


def test_requests_wait_for_a_slot_and_take_the_one_that_is_freed(world: World) -> None:
    ready(world)
    world.submit(request(1))
    assert world.submit(request(2)).orders == ()
    outcome = world.succeed(world.workload(R1))
    (order,) = outcome.orders
    assert isinstance(order.order, RunInference)
    assert order.order.workload_id == request(2).id


def test_a_freed_slot_goes_to_the_highest_priority(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.submit(request(2, priority=Priority.BACKGROUND))
    world.submit(request(3, priority=Priority.CRITICAL))
    world.succeed(world.workload(R1))
    assert world.workload(request(3).id).phase is Phase.PLACED


def test_requests_that_wait_are_dispatched_when_their_model_is_loaded(world: World) -> None:
    world.attach()
    world.submit(request(1))
    world.submit(request(2))
    assert len(world.load(node_id(1), slots=8).orders) == 2


def test_a_request_without_a_node_is_rejected_after_its_patience_with_the_reason(world: World) -> None:
    world.attach()
    world.submit(request(1))
    world.later(0.69)
    assert world.workload(R1).phase is Phase.PENDING
    world.later(0.02)
    rejected = world.workload(R1)
    assert rejected.phase is Phase.REJECTED
    assert rejected.message.startswith("model echo: 0 of 1 nodes can take it")


@pytest.mark.parametrize("recovered", [False, True])
def test_a_rejected_request_leaves_its_key_to_the_next_try(world: World, *, recovered: bool) -> None:
    world.attach()
    world.submit(request(1, request_id="key"))
    world.later(1)
    assert world.workload(R1).phase is Phase.REJECTED
    world = world.recovered() if recovered else world
    world.load(node_id(1), slots=1)
    assert world.submit(request(2, request_id="key")).awaits == request(2).id
    assert world.submit(request(3, request_id="key")).awaits == request(2).id
    world.cluster.discard([R1])  # the old one takes nothing along
    assert world.submit(request(3, request_id="key")).awaits == request(2).id


def test_a_request_that_takes_too_long_fails_and_its_slot_is_free(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.later(14)
    world.handle(ReportTelemetry(node_id=node_id(1), epoch=1))
    world.later(14)
    world.handle(ReportTelemetry(node_id=node_id(1), epoch=1))
    world.later(2)
    assert (world.workload(R1).phase, world.workload(R1).message) == (Phase.FAILED, "no answer within 30 s")
    assert len(world.submit(request(2)).orders) == 1


def test_an_answer_later_than_its_sender_wishes_is_an_answer(world: World) -> None:
    ready(world)
    world.submit(request(1))
    payload = request(1).payload
    assert isinstance(payload, Inference)
    world.later(10 * payload.max_latency_ms / 1000)
    world.succeed(world.workload(R1))
    assert world.workload(R1).phase is Phase.SUCCEEDED


def test_the_node_is_told_of_a_request_that_took_too_long(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.now = world.now.replace(minute=1)
    orders = world.tick().orders
    assert [type(order.order) for order in orders] == [StopAttempt]


def test_a_request_on_a_lost_node_goes_to_another(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.attach(a_node(2))
    world.load(node_id(2))
    world.attach()  # node 1 comes back without its requests
    again = world.workload(R1)
    assert (again.phase, again.attempt, again.node_id) == (Phase.PLACED, 2, node_id(2))


def test_a_request_that_loses_three_nodes_fails(world: World) -> None:
    ready(world)
    world.submit(request(1))
    for epoch in (2, 3, 4):
        world.attach()
        world.load(node_id(1), epoch=epoch)
    assert world.workload(R1).phase is Phase.FAILED


def test_a_request_that_its_node_refused_waits_for_a_slot_and_for_no_time(world: World) -> None:
    ready(world)
    world.submit(request(1))
    events = world.report(world.workload(R1), Phase.FAILED, refused=True).events
    (requeued,) = (event for event in events if isinstance(event, ev.WorkloadRequeued))
    assert requeued.not_before == world.now
    again = world.workload(R1)
    assert (again.phase, again.attempt, again.not_before) == (Phase.PLACED, 2, None)


def refused_by_turns(world: World, *numbers: int) -> list[int]:
    """Has the node refuse whatever it is given, for as long as it is given something; returns the attempts of each."""
    works = [world.workload(request(number).id) for number in numbers]
    while placed := [work for work in works if work.phase is Phase.PLACED]:
        for work in placed:
            world.report(work, Phase.FAILED, refused=True)
    return [work.attempt for work in works]


def test_requests_that_are_refused_again_and_again_wait_for_a_change(world: World) -> None:
    world.attach()
    world.load(node_id(1), slots=2)
    for number in (1, 2, 3):
        world.submit(request(number))
    attempts = refused_by_turns(world, 1, 2, 3)
    assert max(attempts) <= 3
    world.load(node_id(1), slots=2)
    assert [world.workload(request(number).id).phase for number in (1, 2, 3)].count(Phase.PLACED) == 2


def test_a_request_that_waits_after_refusals_is_tried_once_more_when_its_patience_ends(world: World) -> None:
    ready(world)
    world.submit(request(1))
    refused_by_turns(world, 1)
    before = world.workload(R1).attempt
    world.later(1)
    assert world.workload(R1).attempt == before + 1


@pytest.mark.parametrize("waiting", [True, False])
def test_a_request_that_is_refused_once_more_after_its_patience_is_rejected(world: World, waiting: bool) -> None:
    ready(world)
    world.submit(a_workload(1, an_inference(), waiting=waiting))
    refused_by_turns(world, 1)
    world.later(1)
    (*_, end) = world.report(world.workload(R1), Phase.FAILED, refused=True, message="busy").events
    assert isinstance(end, ev.WorkloadFinished)
    assert (end.phase, end.durable) == (Phase.REJECTED, True)
    assert end.message == "model echo: nodes have refused it for longer than 0.7 s, the last one because: busy"
    world.cluster.state.check_invariants()


def test_a_request_that_is_refused_at_every_change_is_rejected_after_its_patience(world: World) -> None:
    ready(world)
    world.submit(a_workload(1, an_inference()))
    work = world.workload(R1)
    attempts = []
    while work.phase is not Phase.REJECTED:
        attempts += refused_by_turns(world, 1)
        world.later(0.25)
        world.load(node_id(1))
    assert attempts == [3, 4, 5, 6]
    assert work.finished_at == T0 + timedelta(seconds=0.75)


@pytest.mark.parametrize("policy", [ClusterPolicy(inference_attempts=1)])
def test_no_request_takes_longer_than_the_policy_says_whenever_it_is_refused(world: World) -> None:
    world.attach()
    world.submit(request(1))
    work, patience_s = world.workload(R1), 0.7
    for _ in range(2):  # at the last moment each time
        world.later(patience_s - 0.01)
        world.load(node_id(1))
        world.report(work, Phase.FAILED, refused=True)
    world.later(patience_s)
    world.later(29.9)
    world.report(work, Phase.FAILED, refused=True)
    assert work.phase is Phase.REJECTED
    assert work.finished_at is not None
    late = work.finished_at - T0
    assert timedelta(seconds=-1) < late - world.cluster.policy.longest_inference <= timedelta()


def test_a_request_that_is_refused_late_has_the_patience_of_any_other(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.later(5)
    world.report(world.workload(R1), Phase.FAILED, refused=True)
    refused_by_turns(world, 1)
    assert world.workload(R1).phase is Phase.PENDING
    world.later(0.5)
    world.load(node_id(1))
    assert world.workload(R1).phase is Phase.PLACED


def test_what_was_refused_before_a_node_began_it_costs_no_patience_later(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.report(world.workload(R1), Phase.FAILED, refused=True)
    world.report(world.workload(R1), Phase.RUNNING)
    world.later(5)
    world.handle(DetachNode(node_id=node_id(1), epoch=1, reason="leaves"))
    world.attach(a_node(2))
    world.load(node_id(2))
    refused_by_turns(world, 1)
    assert world.workload(R1).phase is Phase.PENDING


def test_a_request_is_not_rejected_for_refusals_while_nodes_may_yet_say_what_they_answer_for(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.submit(a_workload(1, an_inference()))
    world = world.recovered()
    world.load(node_id(1))
    refused_by_turns(world, 1)
    world.later(1)
    refused_by_turns(world, 1)
    assert world.workload(R1).phase is Phase.PENDING
    world.load(node_id(2))
    assert world.workload(R1).phase is Phase.PLACED


def test_a_failed_answer_fails_the_request(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.report(world.workload(R1), Phase.FAILED, message="ValueError: no")
    assert (world.workload(R1).phase, world.workload(R1).message) == (Phase.FAILED, "ValueError: no")


def test_stopping_a_request_frees_its_slot_at_once(world: World) -> None:
    ready(world)
    world.submit(request(1))
    (order,) = world.stop(R1).orders
    assert isinstance(order.order, StopAttempt)
    assert world.workload(R1).phase is Phase.STOPPED
    assert len(world.submit(request(2)).orders) == 1


def test_a_node_that_refuses_a_request_is_asked_what_it_answers_for(world: World) -> None:
    ready(world)
    beat = ReportTelemetry(node_id=node_id(1), epoch=1)
    assert world.handle(beat).reply == Heard(report_models=False)
    world.submit(request(1))
    world.report(world.workload(R1), Phase.FAILED, refused=True)
    assert world.handle(beat).reply == Heard(report_models=True)
    world.load(node_id(1))
    assert world.handle(beat).reply == Heard(report_models=False)


@pytest.mark.parametrize("policy", [ClusterPolicy(max_waiting=1)])
def test_a_full_waiting_room_refuses_more(world: World) -> None:
    world.submit(request(1))
    with pytest.raises(ResourceExhaustedError):
        world.submit(request(2))


def test_equal_nodes_share_requests(world: World) -> None:
    for number in (1, 2):
        world.attach(a_node(number))
        world.load(node_id(number), slots=4)
    for number in range(1, 5):
        world.submit(request(number))
    nodes = [world.workload(request(number).id).node_id for number in range(1, 5)]
    assert sorted(map(str, nodes)) == sorted([node_id(1), node_id(1), node_id(2), node_id(2)])


def test_a_model_that_a_node_no_longer_answers_for_gets_nothing(world: World) -> None:
    ready(world)
    world.handle(ReportModels(node_id=node_id(1), epoch=1, models=()))
    assert world.submit(request(1)).orders == ()


def test_a_model_without_slots_is_refused(world: World) -> None:
    world.attach()
    with pytest.raises(InvalidArgumentError):
        world.handle(ReportModels(node_id=node_id(1), epoch=1, models=(ModelSlots(model_id=ModelId("echo"), slots=0),)))


def test_stats_count_requests_and_their_latency(world: World) -> None:
    ready(world, slots=4)
    for number in range(1, 5):
        world.submit(request(number))
    world.later(0.25)
    world.succeed(world.workload(R1))
    world.report(world.workload(request(2).id), Phase.FAILED)
    stats = world.cluster.answer(GetStats(), world.now)
    assert isinstance(stats, ClusterStats)
    counts = stats.inference
    assert (counts.dispatched, counts.completed, counts.failed, counts.in_flight) == (4, 1, 1, 2)
    assert counts.latency_ms_p50 == pytest.approx(250)


def test_an_answer_stays_with_its_workload(world: World) -> None:
    ready(world)
    world.submit(request(1))
    world.report(world.workload(R1), Phase.SUCCEEDED, result=Result(output=b"[1]", pid=42))
    result = world.workload(R1).result
    assert result is not None
    assert (result.output, result.pid) == (b"[1]", 42)


@pytest.mark.parametrize("policy", [ClusterPolicy(keep_finished_inference=3)])
def test_only_the_newest_finished_requests_stay_in_memory(world: World) -> None:
    ready(world)
    for number in range(1, 10):
        world.submit(request(number))
        world.succeed(world.workload(request(number).id))
    assert len(world.cluster.state.workloads) == 3


def test_copies_of_a_model_on_one_node_add_their_slots(world: World) -> None:
    world.attach()
    copy = ModelSlots(model_id=ModelId("echo"), slots=2)
    world.handle(ReportModels(node_id=node_id(1), epoch=1, models=(copy, copy)))
    assert [len(world.submit(request(number)).orders) for number in range(1, 6)] == [1, 1, 1, 1, 0]


def test_a_slow_request_is_told_to_be_processed_once(world: World) -> None:
    ready(world)
    world.submit(request(1))
    assert len(world.report(world.workload(R1), Phase.RUNNING).events) == 1
    assert [type(event) for event in world.succeed(world.workload(R1)).events] == [ev.WorkloadFinished]


def test_attempts_of_a_waiting_sender_go_on_above_those_of_memories_that_were_lost(world: World) -> None:
    """No row has them, so a node may have executed the first ones already for a scheduler that died."""
    world.cluster.state.attempts_from = 30
    world.submit(request(1))
    tried = []
    for epoch in range(1, 4):
        world.attach()
        world.load(node_id(1), epoch=epoch)
        tried.append(world.workload(R1).attempt)
    world.attach()  # without it, for the third time
    assert tried == [31, 32, 33]
    assert (world.workload(R1).phase, world.workload(R1).message) == (
        Phase.FAILED,
        "its node came back without it, 3 times",
    )


def test_attempts_that_rows_have_are_counted_from_the_first(world: World) -> None:
    world.cluster.state.attempts_from = 30
    ready(world)
    world.submit(a_workload(1, an_inference()))
    assert world.workload(R1).attempt == 1
