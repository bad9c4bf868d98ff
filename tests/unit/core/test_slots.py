from __future__ import annotations

from datetime import timedelta

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.slots import SlotQueue
from arcray.core.workload import Priority
from arcray.testing.builders import T0

A, B, C = (WorkloadId(name) for name in "abc")
ECHO = ModelId("echo")


def test_requests_for_a_slot_come_by_priority_then_arrival() -> None:
    queue = SlotQueue()
    queue.add(A, ECHO, Priority.BACKGROUND, T0)
    queue.add(B, ECHO, Priority.NORMAL, T0)
    queue.add(C, ECHO, Priority.NORMAL, T0)
    order = []
    while (first := queue.first(ECHO)) is not None:
        order.append(first)
        queue.remove(first)
    assert order == [B, C, A]
    assert not queue.waits_for(ECHO)


def test_a_request_that_waits_again_has_its_new_deadline_only() -> None:
    queue = SlotQueue()
    queue.add(A, ECHO, Priority.NORMAL, T0)
    queue.remove(A)
    queue.add(A, ECHO, Priority.NORMAL, T0 + timedelta(seconds=9))
    assert queue.expired(T0 + timedelta(seconds=1)) == []
    assert queue.expired(T0 + timedelta(seconds=9)) == [A]


def test_a_request_that_comes_back_in_the_same_instant_gives_up_once() -> None:
    queue = SlotQueue()
    queue.add(A, ECHO, Priority.NORMAL, T0)
    queue.add(B, ECHO, Priority.NORMAL, T0)
    queue.remove(A)
    queue.add(A, ECHO, Priority.NORMAL, T0)
    assert queue.expired(T0) == [A, B]
