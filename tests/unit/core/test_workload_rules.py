from __future__ import annotations

from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.blobkeys import result_key, result_path
from arcray.core.commands import RegisterModel, RemoveModel, ReportEnd, Submitted
from arcray.core.errors import (
    AlreadyExistsError,
    ArcrayError,
    ConflictError,
    IdempotencyMismatchError,
    IllegalTransitionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StaleReportError,
)
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import AccountId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ExplainWorkload, GetModel, ListWorkloads, ModelView, WorkloadPage
from arcray.core.resources import Demand
from arcray.core.workload import ModelServer, Phase, Priority, RestartPolicy, RestartRule
from arcray.testing.builders import T0, a_model, a_node, a_workload, node_id
from arcray.testing.world import World

W1 = a_workload(1).id
WHOLE_NODE = Demand(cpu_milli=8000)


def test_a_submission_is_placed_at_once_where_nothing_waits(world: World) -> None:
    world.attach()
    outcome = world.submit(a_workload(1))
    workload = world.cluster.state.workloads[W1]
    assert outcome.reply == Submitted(
        workload_id=W1,
        phase=Phase.PLACED,
        node_id=node_id(1),
        message="",
        attempt=1,
        allocation=workload.allocation,
        placed_at=workload.placed_at,
    )
    (order,) = outcome.orders
    assert isinstance(order.order, StartWorkload)
    assert (order.node_id, order.epoch, order.order.attempt) == (node_id(1), 1, 1)


def test_a_submission_without_a_node_waits_and_says_why(world: World) -> None:
    outcome = world.submit(a_workload(1))
    assert isinstance(outcome.reply, Submitted)
    assert (outcome.reply.phase, outcome.orders) == (Phase.PENDING, ())
    explanation = world.cluster.answer(ExplainWorkload(workload_id=W1), world.now)
    assert isinstance(explanation, WorkloadExplanation)
    assert explanation.sentence() == "the pool has no nodes; when it starts is unknown"


def test_everything_about_a_submission_is_durable(world: World) -> None:
    world.attach()
    assert all(event.durable for event in world.submit(a_workload(1)).events)


def test_work_that_waits_is_placed_by_the_round_after_room_is_made(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE))
    world.submit(a_workload(2, demand=WHOLE_NODE))
    assert world.workload(a_workload(2).id).phase is Phase.PENDING
    world.succeed(world.workload(W1))
    assert world.cluster.needs_round
    world.run_round()
    assert world.workload(a_workload(2).id).phase is Phase.PLACED
    assert not world.cluster.needs_round


def test_a_round_places_by_priority_then_arrival(world: World) -> None:
    for number, priority in enumerate((Priority.BACKGROUND, Priority.NORMAL, Priority.CRITICAL), 1):
        world.submit(a_workload(number, demand=WHOLE_NODE, priority=priority))
    world.attach()
    order = []
    for _ in range(3):
        world.run_round()
        (running,) = [w for w in world.cluster.state.workloads.values() if w.phase is Phase.PLACED]
        order.append(running.spec.priority)
        world.succeed(running)
    assert order == [Priority.CRITICAL, Priority.NORMAL, Priority.BACKGROUND]


@pytest.mark.parametrize("policy", [ClusterPolicy(round_batch=2)])
def test_a_round_places_at_most_its_batch_and_asks_for_another(world: World) -> None:
    for number in range(1, 6):
        world.submit(a_workload(number))
    world.attach()
    placed = [len(world.run_round().orders) for _ in range(3)]
    assert placed == [2, 2, 1]


@pytest.mark.parametrize("policy", [ClusterPolicy(max_pending=2)])
def test_a_full_queue_refuses_more_and_keeps_what_it_has(world: World) -> None:
    world.submit(a_workload(1))
    world.submit(a_workload(2))
    with pytest.raises(ResourceExhaustedError):
        world.submit(a_workload(3))
    assert len(world.cluster.state.workloads) == 2


def test_the_same_submission_again_is_the_same_workload(world: World) -> None:
    spec = a_workload(1, request_id="key", request_digest="d")
    world.submit(spec)
    again = world.submit(spec)
    assert isinstance(again.reply, Submitted)
    assert (again.reply.workload_id, again.reply.created, again.events) == (W1, False, ())


def test_the_same_key_under_another_id_is_the_first_workload(world: World) -> None:
    world.submit(a_workload(1, request_id="key", request_digest="d"))
    again = world.submit(a_workload(2, request_id="key", request_digest="d"))
    assert isinstance(again.reply, Submitted)
    assert (again.reply.workload_id, again.reply.created) == (W1, False)


def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    world.submit(a_workload(1, request_id="key", request_digest="d"))
    with pytest.raises(IdempotencyMismatchError):
        world.submit(a_workload(2, request_id="key", request_digest="other"))


def test_a_taken_id_with_another_body_is_refused(world: World) -> None:
    world.submit(a_workload(1, request_digest="d"))
    with pytest.raises(AlreadyExistsError):
        world.submit(a_workload(1, request_digest="other"))


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"node_id": node_id(9)}, NotFoundError, "nodeId"),
        ({"max_duration_s": 0.0}, InvalidArgumentError, "maxDurationS"),
        ({"payload": ModelServer(model=a_model())}, NotFoundError, "model"),
    ],
)
def test_a_submission_that_cannot_be_is_refused_by_field(
    world: World, fields: dict[str, Any], error: type[ArcrayError], field: str
) -> None:
    with pytest.raises(error) as refused:
        world.submit(a_workload(1, **fields))
    assert refused.value.field == field
    assert not world.cluster.state.workloads


def test_reported_phases_are_taken_in_order_and_twice_is_once(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    for phase in (Phase.PULLING, Phase.STARTING, Phase.RUNNING):
        assert len(world.report(world.workload(W1), phase).events) == 1
        assert world.report(world.workload(W1), phase).events == ()
    assert world.workload(W1).started_at == world.now


def test_a_phase_out_of_order_is_refused(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(W1), Phase.RUNNING)
    with pytest.raises(IllegalTransitionError):
        world.report(world.workload(W1), Phase.PULLING)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PLACED, Phase.STOPPING])
def test_a_phase_that_is_not_the_nodes_to_report_is_refused(world: World, phase: Phase) -> None:
    world.attach()
    world.submit(a_workload(1))
    with pytest.raises(InvalidArgumentError):
        world.report(world.workload(W1), phase)


def test_a_rejection_is_not_a_nodes_to_report(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    with pytest.raises(InvalidArgumentError):
        world.report(world.workload(W1), Phase.REJECTED)


def test_an_end_frees_the_allocation_and_is_told_once(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    placed = world.workload(W1)
    assert world.workload(W1).allocation is not None
    assert len(world.succeed(placed).events) == 1
    assert world.workload(W1).allocation is None
    assert world.succeed(placed).events == ()


def test_another_end_after_the_end_changes_nothing(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.succeed(world.workload(W1))
    world.report(world.workload(W1), Phase.FAILED)
    assert world.workload(W1).phase is Phase.SUCCEEDED


def test_a_report_of_an_earlier_attempt_is_refused(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.report(world.workload(W1), Phase.FAILED)
    world.later(2)
    world.run_round()
    assert world.workload(W1).attempt == 2
    with pytest.raises(StaleReportError) as refused:
        world.report(world.workload(W1), Phase.SUCCEEDED, attempt=1)
    assert refused.value.field == "attempt"


def test_a_report_by_a_node_that_does_not_hold_the_work_is_refused(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.attach(a_node(2))
    with pytest.raises(StaleReportError) as refused:
        world.report(world.workload(W1), Phase.RUNNING, node_id=node_id(2))
    assert refused.value.field == "nodeId"


def test_failures_restart_with_growing_waits_until_the_policy_ends_it(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2)))
    waits = []
    for _ in range(2):
        world.report(world.workload(W1), Phase.FAILED, message="boom")
        due = world.workload(W1).not_before
        assert due is not None
        waits.append((due - world.now).total_seconds())
        world.later(waits[-1])
        world.run_round()
    world.report(world.workload(W1), Phase.FAILED, message="boom")
    assert waits == [1, 2]
    assert (world.workload(W1).phase, world.workload(W1).message) == (Phase.FAILED, "boom")


def test_a_new_attempt_has_not_started_when_the_one_before_it_had(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.report(world.workload(W1), Phase.RUNNING)
    world.report(world.workload(W1), Phase.FAILED)
    world.later(2)
    world.run_round()
    outcome = world.report(world.workload(W1), Phase.STOPPED)
    (end,) = outcome.events
    assert isinstance(end, ev.WorkloadFinished)
    assert (end.attempt, end.started_at) == (2, None)


def test_success_restarts_only_what_always_restarts(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ALWAYS)))
    world.submit(a_workload(2, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.succeed(world.workload(W1))
    world.succeed(world.workload(a_workload(2).id))
    assert world.workload(W1).phase is Phase.PENDING
    assert world.workload(a_workload(2).id).phase is Phase.SUCCEEDED


def test_a_refusal_by_the_node_is_another_attempt_whatever_the_policy(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(W1), Phase.FAILED, refused=True, message="engine is away")
    refused = world.workload(W1)
    assert (refused.phase, refused.restarts, refused.message) == (Phase.PENDING, 0, "engine is away")


def test_stopping_what_waits_ends_it_at_once(world: World) -> None:
    world.submit(a_workload(1))
    assert world.stop(W1).orders == ()
    assert world.workload(W1).phase is Phase.STOPPED


def test_stopping_what_runs_asks_its_node_and_any_end_is_a_stop(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(W1), Phase.RUNNING)
    (order,) = world.stop(W1).orders
    assert order.order == StopAttempt(workload_id=W1, attempt=1, grace_s=10.0, created_s=T0.timestamp())
    assert world.workload(W1).phase is Phase.STOPPING
    world.succeed(world.workload(W1))
    assert world.workload(W1).phase is Phase.STOPPED


def test_stopping_twice_asks_once(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.stop(W1)
    assert world.stop(W1).orders == ()
    world.succeed(world.workload(W1))
    assert world.stop(W1).events == ()


def test_stopped_work_is_not_restarted(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ALWAYS)))
    world.stop(W1)
    world.report(world.workload(W1), Phase.FAILED)
    assert world.workload(W1).phase is Phase.STOPPED


def test_stopping_what_belongs_to_another_account_finds_nothing(world: World) -> None:
    world.submit(a_workload(1))
    with pytest.raises(NotFoundError):
        world.stop(W1, account=AccountId("somebody"))
    assert world.workload(W1).phase is Phase.PENDING


def test_a_report_about_work_that_ended_by_itself_is_a_conflict(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.succeed(world.workload(W1))
    with pytest.raises(ConflictError):
        world.report(world.workload(W1), Phase.RUNNING)


@pytest.mark.parametrize("policy", [ClusterPolicy(keep_finished=2)])
def test_only_the_newest_finished_work_stays_in_memory(world: World) -> None:
    world.attach()
    for number in range(1, 5):
        world.submit(a_workload(number, request_id=f"key-{number}"))
        world.succeed(world.workload(a_workload(number).id))
    assert set(world.cluster.state.workloads) == {a_workload(3).id, a_workload(4).id}
    assert len(world.cluster.state.requests) == 2


def test_a_list_shows_the_newest_first_and_pages(world: World) -> None:
    for number in range(1, 6):
        world.submit(a_workload(number))
    page = world.cluster.answer(ListWorkloads(limit=2, offset=1), world.now)
    assert isinstance(page, WorkloadPage)
    assert [view.spec.id for view in page.workloads] == [a_workload(4).id, a_workload(3).id]
    assert page.total == 5


def test_a_model_is_registered_once_and_the_same_again_changes_nothing(world: World) -> None:
    assert len(world.handle(RegisterModel(model=a_model())).events) == 1
    assert world.handle(RegisterModel(model=a_model())).events == ()
    with pytest.raises(AlreadyExistsError):
        world.handle(RegisterModel(model=a_model(source="other:f")))


@pytest.mark.parametrize(
    ("fields", "field"), [({"id": ""}, "name"), ({"id": "x" * 129}, "name"), ({"source": ""}, "source")]
)
def test_a_model_that_cannot_be_is_refused_by_field(world: World, fields: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        world.handle(RegisterModel(model=a_model(**fields)))
    assert refused.value.field == field


def test_removing_a_model_stops_its_copies(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    world.submit(a_workload(1, ModelServer(model=a_model())))
    orders = world.handle(RemoveModel(model_id=a_model().id)).orders
    assert [type(order.order) for order in orders] == [StopAttempt]
    with pytest.raises(NotFoundError):
        world.cluster.answer(GetModel(model_id=a_model().id), world.now)


def test_a_model_view_names_its_copies_and_the_nodes_that_answer(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    world.submit(a_workload(1, ModelServer(model=a_model())))
    world.load(node_id(1))
    view = world.cluster.answer(GetModel(model_id=a_model().id), world.now)
    assert isinstance(view, ModelView)
    assert ([server.spec.id for server in view.servers], view.ready_on) == ([W1], (node_id(1),))


def test_a_refused_end_report_leaves_no_trace(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    before = world.workload(W1).phase
    with pytest.raises(StaleReportError):
        world.handle(ReportEnd(node_id=node_id(1), epoch=7, workload_id=W1, attempt=1, phase=Phase.FAILED))
    assert world.workload(W1).phase is before


def test_the_last_fact_of_journalled_work_does_not_repeat_what_was_asked(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    (finished,) = world.succeed(world.workload(W1)).events
    assert isinstance(finished, ev.WorkloadFinished)
    assert finished.spec is None


def test_results_of_one_attempt_are_not_written_over_by_another() -> None:
    keys = {result_key(W1, path, attempt) for path in ("a/b.txt", "2/a/b.txt") for attempt in (1, 2, 3)}
    assert len(keys) == 6
    assert {result_path(key) for key in keys} == {"a/b.txt", "2/a/b.txt"}
