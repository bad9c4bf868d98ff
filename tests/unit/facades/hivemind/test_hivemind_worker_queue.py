"""Orders for one worker: what is next, and what is done once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import NO_DEMAND, Allocation
from arcray.core.workload import Phase, Program, WorkloadView
from arcray.facades.hivemind.worker_queue import Forget, Unstarted, WorkerQueue
from arcray.testing.builders import T0, a_workload


def start(number: int, attempt: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=a_workload(number).id,
        attempt=attempt,
        payload=Program(blob="b"),
        demand=NO_DEMAND,
        allocation=Allocation(),
        owner="ana",
        created_s=T0.timestamp(),
    )


def stop(number: int, attempt: int = 1) -> StopAttempt:
    return StopAttempt(workload_id=a_workload(number).id, attempt=attempt, grace_s=1.0, created_s=T0.timestamp())


def placed(*, attempt: int, created_at: datetime = T0) -> WorkloadView:
    return WorkloadView(
        spec=a_workload(1, created_at=created_at), phase=Phase.PLACED, attempt=attempt, restarts=0, node_id=None,
        allocation=None, message="", result=None, placed_at=T0, started_at=None, finished_at=None, ports=(),
    )  # fmt: skip


def test_an_attempt_is_started_once_however_often_its_order_comes() -> None:
    queue = WorkerQueue()
    queue.put(start(1))
    queue.put(start(1))
    assert queue.take() == start(1)
    queue.done(start(1))
    queue.put(start(1))
    assert queue.take() is None
    queue.put(start(1, attempt=2))
    assert queue.take() == start(1, attempt=2)


def test_one_start_is_on_its_way_at_a_time_and_stops_pass_it() -> None:
    queue = WorkerQueue()
    for item in (start(1), start(2), stop(3)):
        queue.put(item)
    assert queue.take() == start(1)
    assert queue.take() == stop(3)
    assert queue.take() is None
    assert len(queue) == 3
    queue.done(start(1))
    assert queue.take() == start(2)


def test_orders_about_one_piece_of_work_are_done_in_order() -> None:
    queue = WorkerQueue()
    queue.put(start(1))
    assert queue.take() == start(1)
    queue.put(stop(1))
    queue.put(stop(1))
    assert queue.take() is None
    queue.done(start(1))
    assert queue.take() == stop(1)
    queue.put(stop(1))
    queue.done(stop(1))
    assert queue.take() is None


def test_what_is_forgotten_ends_before_it_starts_again() -> None:
    queue = WorkerQueue()
    forget = Forget(a_workload(1).id, 1)
    queue.put(forget)
    queue.put(start(1, attempt=2))
    assert queue.take() == forget
    assert queue.take() is None
    queue.done(forget)
    assert queue.take() == start(1, attempt=2)


def test_a_stop_takes_the_place_of_a_start_that_waits() -> None:
    queue = WorkerQueue()
    queue.put(start(1))
    queue.put(stop(1))
    assert queue.take() == Unstarted(stop(1))
    assert queue.take() is None
    queue.put(start(1))
    assert queue.take() is None


def test_what_has_come_is_held_whatever_became_of_it() -> None:
    queue = WorkerQueue()
    queue.put(start(1))
    assert queue.holds(placed(attempt=1))
    assert not queue.holds(placed(attempt=2))
    assert not queue.holds(placed(attempt=1, created_at=T0 + timedelta(days=1)))


def test_work_of_an_id_that_comes_again_is_other_work() -> None:
    queue = WorkerQueue()
    queue.put(start(1))
    assert queue.take() == start(1)
    queue.done(start(1))
    again = replace(start(1), created_s=T0.timestamp() + 1)
    queue.put(again)
    queue.put(stop(1))
    assert queue.take() == again
    queue.done(again)
    assert queue.take() == stop(1)
