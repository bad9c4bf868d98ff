"""Restarts with back-off, the memory of attempts, the longest time that work may run, and the scheduler as backstop."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.commands import DetachNode, DrainNode, ReportTelemetry, ReportUndelivered
from arcray.core.errors import InvalidArgumentError, StaleReportError
from arcray.core.gang import Gang, Layout
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import GetWorkload
from arcray.core.workload import Phase, RestartPolicy, RestartRule, Result, Workload, WorkloadView
from arcray.testing.builders import T0, a_container, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

W1 = a_workload(1).id
STUBBORN = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=None)


def cause_of(workload: Workload) -> Cause | None:
    return None if workload.eviction is None else workload.eviction.cause


def beating(world: World, seconds: float) -> tuple[ev.Event, ...]:
    """Lets time pass while the node is heard."""
    happened: list[ev.Event] = []
    while seconds > 0:
        step = min(seconds, 10.0)
        happened += world.later(step)
        happened += world.handle(ReportTelemetry(node_id=node_id(1), epoch=1)).events
        seconds -= step
    return tuple(happened)


def started(world: World, **fields: Any) -> Workload:
    world.attach()
    world.submit(a_workload(1, **fields))
    work = world.workload(W1)
    world.report(work, Phase.RUNNING)
    return work


def fail(world: World, work: Workload, exit_code: int = 1) -> float:
    """Fails the present attempt; returns the wait before the next in seconds."""
    world.report(work, Phase.FAILED, message=f"exit {exit_code}", result=Result(exit_code=exit_code))
    assert work.not_before is not None
    return (work.not_before - world.now).total_seconds()


def again(world: World, work: Workload) -> None:
    beating(world, 300)
    world.run_round()
    world.report(work, Phase.RUNNING)


def test_work_that_restarts_on_loss_is_repeated_elsewhere_and_fails_by_itself_for_good(world: World) -> None:
    on_loss = RestartPolicy(rule=RestartRule.ON_LOSS)
    work = started(world, restart=on_loss)
    world.later(200.0)  # its node says nothing
    assert (work.phase, work.restarts) == (Phase.PENDING, 1)
    world.attach(a_node(2))
    world.run_round()
    assert (work.node_id, work.attempt) == (node_id(2), 2)
    world.report(work, Phase.RUNNING)
    world.report(work, Phase.FAILED, message="exit 1", result=Result(exit_code=1))
    assert (work.phase, work.message) == (Phase.FAILED, "exit 1")


def test_losses_are_counted_against_the_limit(world: World) -> None:
    work = started(world, restart=RestartPolicy(rule=RestartRule.ON_LOSS, max_restarts=0))
    world.later(200.0)
    assert work.phase is Phase.FAILED


def test_a_gang_that_restarts_on_loss_fails_with_a_member(world: World) -> None:
    on_loss = RestartPolicy(rule=RestartRule.ON_LOSS)
    members = []
    for number in (1, 2):
        world.attach(a_node(number))
    for number in (1, 2):
        world.submit(a_workload(number, restart=on_loss, gang=Gang(id="g", size=2, layout=Layout.SPREAD)))
        members.append(world.workload(a_workload(number).id))
    for member in members:
        world.report(member, Phase.RUNNING)
    world.report(members[0], Phase.FAILED, message="exit 1")
    assert members[0].phase is Phase.FAILED


def test_a_gang_that_restarts_on_loss_starts_again_as_a_whole(world: World) -> None:
    on_loss = RestartPolicy(rule=RestartRule.ON_LOSS)
    members = []
    for number in (1, 2):
        world.attach(a_node(number))
    for number in (1, 2):
        world.submit(a_workload(number, restart=on_loss, gang=Gang(id="g", size=2, layout=Layout.SPREAD)))
        members.append(world.workload(a_workload(number).id))
    for member in members:
        world.report(member, Phase.RUNNING)
    gone = members[0].node_id
    assert gone is not None
    world.handle(DetachNode(node_id=gone, epoch=1))
    assert (members[0].phase, members[1].phase) == (Phase.PENDING, Phase.STOPPING)


def test_back_off_doubles_up_to_its_cap_without_chance() -> None:
    waits: list[list[float]] = []
    for _ in range(2):
        world = World(ClusterPolicy(restart_backoff_max=timedelta(seconds=5)), T0)
        work = started(world, restart=STUBBORN)
        waits.append([])
        for _ in range(5):
            waits[-1].append(fail(world, work))
            again(world, work)
    assert waits == [[1, 2, 4, 5, 5]] * 2


def test_a_long_run_forgets_earlier_restarts(world: World) -> None:
    work = started(world, restart=RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2))
    for _ in range(4):
        assert fail(world, work) == 1.0
        again(world, work)
        beating(world, 600)
    assert (work.restarts, work.phase) == (4, Phase.RUNNING)


def test_short_runs_use_the_restarts_up(world: World) -> None:
    work = started(world, restart=RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2))
    for _ in range(2):
        fail(world, work)
        again(world, work)
    world.report(work, Phase.FAILED, message="exit 1")
    assert (work.phase, work.restarts, work.dead) == (Phase.FAILED, 2, True)


def test_an_attempt_that_never_ran_is_no_long_run_of_the_one_before(world: World) -> None:
    work = started(world, restart=STUBBORN)
    beating(world, 700)
    assert fail(world, work) == 1.0
    beating(world, 700)
    world.run_round()
    assert work.started_at is None
    assert fail(world, work) == 2.0


def test_a_view_tells_when_work_starts_again_and_why(world: World) -> None:
    work = started(world, restart=STUBBORN)
    fail(world, work, 3)
    view = world.cluster.answer(GetWorkload(workload_id=W1), world.now)
    assert isinstance(view, WorkloadView)
    assert (view.not_before, view.restarts, view.message) == (world.now + timedelta(seconds=1), 1, "exit 3")
    assert [(each.attempt, each.exit_code, each.message) for each in view.attempts] == [(1, 3, "exit 3")]


def test_only_the_newest_attempts_are_remembered(world: World) -> None:
    work = started(world, restart=STUBBORN)
    for _ in range(15):
        fail(world, work)
        again(world, work)
    assert [record.attempt for record in work.history] == list(range(6, 16))


# -- not delivered ----------------------------------------------------------------------------------------------------


def undelivered(world: World, attempt: int) -> None:
    world.handle(ReportUndelivered(node_id=node_id(1), epoch=1, workload_id=W1, attempt=attempt, message="too large"))


def test_what_a_node_could_not_be_told_to_start_holds_its_place_until_the_node_says_that_it_ended(world: World) -> None:
    work = started(world)
    undelivered(world, attempt=1)
    assert (work.phase, cause_of(work), work.allocation is None) == (Phase.STOPPING, Cause.UNDELIVERED, False)
    world.report(work, Phase.STOPPED)
    assert (work.phase, work.message, work.allocation) == (Phase.FAILED, "too large", None)


def test_what_a_node_could_not_be_told_to_start_is_tried_again_by_its_restart_policy(world: World) -> None:
    work = started(world, restart=STUBBORN)
    undelivered(world, attempt=1)
    world.report(work, Phase.STOPPED)
    assert (work.phase, work.restarts, work.message) == (Phase.PENDING, 1, "too large")


def test_of_an_older_attempt_it_does_not_matter_what_was_delivered(world: World) -> None:
    work = started(world, restart=STUBBORN)
    fail(world, work)
    again(world, work)
    with pytest.raises(StaleReportError):
        undelivered(world, attempt=1)
    assert work.phase is Phase.RUNNING


# -- longest time ------------------------------------------------------------------------------------------------------


def test_work_that_its_node_lets_run_too_long_is_stopped_by_the_scheduler_and_fails(world: World) -> None:
    work = started(world, max_duration_s=60.0)
    beating(world, 89.9)
    assert work.phase is Phase.RUNNING
    beating(world, 0.2)
    assert (work.phase, cause_of(work)) == (Phase.STOPPING, Cause.OVERTIME)
    world.report(work, Phase.STOPPED, result=Result(exit_code=137))
    assert (work.phase, work.message) == (Phase.FAILED, "ran longer than 60 s")
    assert work.dead


def test_a_node_that_does_not_even_stop_it_loses_it(world: World) -> None:
    work = started(world, max_duration_s=60.0)
    beating(world, 119.9)
    assert work.phase is Phase.STOPPING
    beating(world, 0.2)
    assert (work.phase, work.allocation) == (Phase.FAILED, None)


@pytest.mark.parametrize("asked", ["stop", "drain"])
def test_work_that_was_ending_already_is_given_up_as_late(world: World, asked: str) -> None:
    work = started(world, max_duration_s=60.0, restart=STUBBORN)
    if asked == "stop":
        world.stop(work.id)
    else:
        world.handle(DrainNode(node_id=node_id(1)))
    beating(world, 80)
    world.now += timedelta(seconds=10)
    (order,) = world.tick().orders
    assert order.order == StopAttempt(workload_id=W1, attempt=1, grace_s=0.0, created_s=T0.timestamp())
    beating(world, 10)
    recovered = world.recovered()
    beating(world, 19.9)
    assert work.phase is Phase.STOPPING
    beating(world, 0.2)
    assert (work.phase, work.allocation) == (Phase.STOPPED if asked == "stop" else Phase.PENDING, None)
    recovered.later(29.9)
    assert recovered.workload(W1).phase is Phase.STOPPING
    recovered.later(0.2)
    assert recovered.workload(W1).phase is work.phase


def test_what_has_ended_in_time_is_not_kept_to_be_looked_at() -> None:
    world = World(ClusterPolicy(default_max_duration=timedelta(days=1), keep_finished=10), T0)
    world.attach()
    for number in range(1, 3_000):
        spec = a_workload(number)
        world.submit(spec)
        world.report(world.workload(spec.id), Phase.RUNNING)
        if number % 1_000:
            world.succeed(world.workload(spec.id))
    assert len(world.cluster.state.overtime) <= 1_024
    running = {workload.spec.id for workload in world.cluster.state.workloads.values() if not workload.phase.terminal}
    assert len(running) == 2
    assert running <= {workload_id for _, workload_id, _ in world.cluster.state.overtime}


def test_overtime_is_a_failure_to_the_restart_policy(world: World) -> None:
    work = started(world, max_duration_s=60.0, restart=STUBBORN)
    beating(world, 91)
    world.report(work, Phase.STOPPED)
    assert (work.phase, work.restarts) == (Phase.PENDING, 1)
    again(world, work)
    assert (work.attempt, work.eviction, work.phase) == (2, None, Phase.RUNNING)
    beating(world, 91)
    assert (work.phase, cause_of(work)) == (Phase.STOPPING, Cause.OVERTIME)


def test_the_timer_of_an_earlier_attempt_ends_no_later_one(world: World) -> None:
    work = started(world, max_duration_s=60.0, restart=STUBBORN)
    beating(world, 50)
    fail(world, work)
    beating(world, 20)
    world.run_round()
    world.report(work, Phase.RUNNING)
    beating(world, 40)
    assert work.phase is Phase.RUNNING


def test_the_order_to_stop_work_in_overtime_is_one_of_its_attempt(world: World) -> None:
    started(world, max_duration_s=60.0)
    world.later(0)
    beating(world, 80)
    world.now += timedelta(seconds=11)
    (order,) = world.tick().orders
    assert order.order == StopAttempt(workload_id=W1, attempt=1, grace_s=0.0, created_s=T0.timestamp())


LIMITED = ClusterPolicy(max_duration=timedelta(hours=1), default_max_duration=timedelta(minutes=10))


@pytest.mark.parametrize(("asked_s", "given_s"), [(None, 600.0), (60.0, 60.0), (3600.0, 3600.0)])
def test_settings_fill_in_and_bound_how_long_work_may_run(asked_s: float | None, given_s: float) -> None:
    world = World(LIMITED, T0)
    world.attach()
    (order,) = world.submit(a_workload(1, max_duration_s=asked_s)).orders
    assert isinstance(order.order, StartWorkload)
    assert order.order.max_duration_s == given_s


def test_work_that_asks_to_run_longer_than_any_may_is_refused() -> None:
    world = World(LIMITED, T0)
    with pytest.raises(InvalidArgumentError, match="may be 3600") as refused:
        world.submit(a_workload(1, max_duration_s=3601.0))
    assert refused.value.field == "maxDurationS"


def test_a_limit_alone_is_the_default_too() -> None:
    world = World(ClusterPolicy(max_duration=timedelta(hours=1)), T0)
    world.submit(a_workload(1))
    assert world.workload(W1).spec.max_duration_s == 3600.0


def test_requests_have_their_own_limit() -> None:
    world = World(LIMITED, T0)
    world.submit(a_workload(1, an_inference()))
    assert world.workload(W1).spec.max_duration_s is None


def test_submitting_again_is_the_same_whatever_was_filled_in() -> None:
    world = World(LIMITED, T0)
    world.submit(a_workload(1, a_container(), request_id="k", request_digest="d"))
    assert world.submit(a_workload(1, a_container(), request_id="k", request_digest="d")).events == ()
    world.attach(a_node(1))


def refuse(world: World, work: Workload) -> float:
    """Has the node refuse the present attempt; returns the wait before the next in seconds."""
    world.report(work, Phase.FAILED, message="no room", refused=True)
    assert work.not_before is not None
    return (work.not_before - world.now).total_seconds()


def test_work_that_is_refused_again_and_again_waits_longer_each_time_and_has_not_restarted(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    waits = []
    for _ in range(4):
        waits.append(refuse(world, world.workload(W1)))
        beating(world, 10)
        world.run_round()
    assert (waits, world.workload(W1).restarts) == ([1, 2, 4, 8], 0)


def test_the_record_of_a_refused_attempt_says_whether_it_may_have_begun(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    work = world.workload(W1)
    refuse(world, work)
    again(world, work)
    world.report(work, Phase.FAILED, refused=True, begun=True)
    assert [(each.refused, each.begun) for each in work.attempts()] == [(True, False), (True, True)]
    assert work.restarts == 0


def test_work_that_a_node_refused_goes_to_another_that_can_take_it(world: World) -> None:
    for number in (1, 2, 3):
        world.attach(a_node(number))
    world.submit(a_workload(1))
    work = world.workload(W1)
    tried = []
    for _ in range(3):
        tried.append(work.node_id)
        refuse(world, work)
        world.later(5)
        world.run_round()
    assert len(set(tried)) == 3


def test_refusals_are_forgotten_once_a_node_has_begun_the_work(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=STUBBORN))
    work = world.workload(W1)
    assert [refuse(world, work), work.refusals] == [1, 1]
    again(world, work)
    fail(world, work)
    assert (work.refusals, work.refused_by) == (0, frozenset())
