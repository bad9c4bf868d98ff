"""The attempts of a node: sent once, held against the table, ended once."""

from __future__ import annotations

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import ValidationError, WorkloadState
from arcray.claw_proto.frames import Dialect
from arcray.core.commands import Running
from arcray.core.errors import NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container
from arcray.facades.claw.attempts import Attempts, Step
from arcray.facades.claw.replies import wire_id
from arcray.testing.builders import a_workload

S = WorkloadState
WORK = a_workload(1).id
DOING = Running(workload_id=WORK, attempt=1)


def start(workload_id: WorkloadId = WORK, attempt: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=workload_id,
        attempt=attempt,
        payload=Container(image="i"),
        demand=Demand(),
        allocation=Allocation(),
        owner="o",
    )


def stop(attempt: int = 1) -> StopAttempt:
    return StopAttempt(workload_id=WORK, attempt=attempt, grace_s=10.0)


def given(dialect: Dialect = Dialect.DOCUMENT) -> Attempts:
    attempts = Attempts(dialect)
    assert attempts.give(start())
    return attempts


def tell(attempts: Attempts, *states: WorkloadState, attempt: int = 1) -> Step:
    steps = [attempts.told(wire_id(WORK, attempt), state) for state in states]
    return steps[-1]


def test_an_attempt_goes_through_its_states_to_its_end() -> None:
    attempts = given()
    assert attempts.inventory() == (DOING,)
    assert tell(attempts, S.PULLING) == Step(DOING, S.PULLING, S.PENDING)
    assert tell(attempts, S.STARTING, S.RUNNING, S.COMPLETED) == Step(DOING, S.COMPLETED, S.RUNNING)
    assert (len(attempts), attempts.inventory()) == (0, ())


def test_an_attempt_is_sent_once_also_after_its_end() -> None:
    attempts = given()
    assert not attempts.give(start())
    tell(attempts, S.FAILED)
    assert not attempts.give(start())
    assert attempts.give(start(attempt=2))


def test_a_late_word_is_of_the_attempt_that_it_is_about() -> None:
    attempts = given()
    attempts.give(start(attempt=2))
    assert tell(attempts, S.FAILED, attempt=1).work.attempt == 1
    assert tell(attempts, S.STARTING, attempt=2).work.attempt == 2
    with pytest.raises(NotFoundError, match="workload_id: no such workload on this node"):
        tell(attempts, S.RUNNING, attempt=1)


def test_nothing_is_believed_of_what_a_node_was_not_given() -> None:
    with pytest.raises(NotFoundError):
        given().told(claw.WorkloadId(a_workload(2).id), S.RUNNING)


def test_a_step_that_the_table_does_not_have_changes_nothing() -> None:
    attempts = given()
    with pytest.raises(ValidationError, match="state: pending does not lead to running"):
        tell(attempts, S.RUNNING)
    assert tell(attempts, S.STARTING).before is S.PENDING


def test_what_fails_from_pending_was_never_begun_unless_it_was_not_heard_from_the_start() -> None:
    assert tell(given(), S.FAILED) == Step(DOING, S.FAILED, S.PENDING, refused=True)
    assert not tell(given(), S.PULLING, S.FAILED).refused
    assert not tell(given(Dialect.ORIGINAL), S.FAILED).refused
    resumed = Attempts(Dialect.DOCUMENT)
    resumed.resume(DOING, S.PENDING)
    assert not tell(resumed, S.FAILED).refused


def test_a_node_of_the_first_implementation_need_not_tell_that_it_starts() -> None:
    attempts = given(Dialect.ORIGINAL)
    assert tell(attempts, S.RUNNING) == Step(DOING, S.RUNNING, S.STARTING)
    assert attempts.stop(stop())
    assert tell(attempts, S.STOPPED) == Step(DOING, S.STOPPED, S.STOPPING)


@pytest.mark.parametrize("way", [(S.PULLING,), (S.STARTING,), (S.STARTING, S.RUNNING)])
@pytest.mark.parametrize(("end", "state"), [(S.STOPPED, S.STOPPED), (S.COMPLETED, S.STOPPED), (S.FAILED, S.FAILED)])
def test_what_was_asked_to_end_stops_wherever_it_was(
    way: tuple[WorkloadState, ...], end: WorkloadState, state: WorkloadState
) -> None:
    attempts = given()
    tell(attempts, *way)
    assert attempts.stop(stop())
    assert tell(attempts, end) == Step(DOING, state, S.STOPPING)
    assert not attempts.stop(stop())


def test_what_was_asked_to_end_before_it_began_stops_as_soon_as_it_begins() -> None:
    attempts = given()
    assert attempts.stop(stop())
    assert tell(attempts, S.PULLING).state is S.STOPPING
    assert tell(attempts, S.COMPLETED).state is S.STOPPED


def test_what_never_begins_stops_without_more() -> None:
    attempts = given()
    attempts.stop(stop())
    assert tell(attempts, S.STOPPED) == Step(DOING, S.STOPPED, S.PENDING)


def test_a_stop_that_comes_twice_is_told_twice_and_changes_nothing() -> None:
    attempts = given()
    tell(attempts, S.STARTING)
    assert attempts.stop(stop())
    assert attempts.stop(stop())
    assert tell(attempts, S.STOPPED).before is S.STOPPING


def test_there_is_nothing_to_stop_that_was_not_given() -> None:
    assert not Attempts(Dialect.DOCUMENT).stop(stop())


def test_what_could_not_be_sent_was_not_given() -> None:
    attempts = given()
    attempts.withdraw(DOING)
    attempts.withdraw(DOING)
    assert attempts.inventory() == ()
    assert attempts.give(start())


def test_after_a_break_an_attempt_stands_where_its_node_says() -> None:
    attempts = Attempts(Dialect.DOCUMENT)
    attempts.resume(DOING, S.RUNNING)
    assert not attempts.give(start())
    assert tell(attempts, S.COMPLETED) == Step(DOING, S.COMPLETED, S.RUNNING)


def test_what_ended_in_a_break_is_not_started_again() -> None:
    attempts = Attempts(Dialect.DOCUMENT)
    attempts.resume(DOING, S.COMPLETED)
    assert attempts.inventory() == ()
    assert not attempts.give(start())


def test_what_was_stopping_before_a_break_is_still() -> None:
    attempts = Attempts(Dialect.DOCUMENT)
    attempts.resume(DOING, S.STOPPING)
    assert tell(attempts, S.COMPLETED).state is S.STOPPED


def test_what_has_ended_is_remembered_within_bounds() -> None:
    attempts = Attempts(Dialect.DOCUMENT)
    for number in range(10_001):
        attempts.resume(Running(workload_id=a_workload(number).id, attempt=1), S.STOPPED)
    assert not attempts.give(start(a_workload(10_000).id))
    assert attempts.give(start(a_workload(0).id))
