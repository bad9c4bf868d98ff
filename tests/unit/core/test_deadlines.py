"""What is due comes in order and once, and what is over costs no memory for long."""

from __future__ import annotations

from datetime import datetime, timedelta

from arcray.core.deadlines import Deadlines
from arcray.core.ids import WorkloadId
from arcray.testing.builders import T0

A, B, C = (WorkloadId(name) for name in "abc")


class Rig:
    """Deadlines of what ``due`` says."""

    def __init__(self) -> None:
        self.due: dict[WorkloadId, datetime] = {}
        self.deadlines = Deadlines[WorkloadId](lambda due, key: self.due.get(key) == due)

    def add(self, key: WorkloadId, seconds: float) -> None:
        self.due[key] = T0 + timedelta(seconds=seconds)
        self.deadlines.add(self.due[key], key)

    def over(self, seconds: float) -> list[WorkloadId]:
        found = []
        for key in self.deadlines.over(T0 + timedelta(seconds=seconds)):
            found.append(key)
            del self.due[key]
        return found


def test_what_is_due_comes_in_order_and_once() -> None:
    rig = Rig()
    for key, seconds in ((A, 3), (B, 1), (C, 9)):
        rig.add(key, seconds)
    assert (rig.over(3), rig.over(3)) == ([B, A], [])
    assert rig.deadlines.next_due() == T0 + timedelta(seconds=9)


def test_a_deadline_that_was_moved_is_due_at_the_new_time_alone() -> None:
    rig = Rig()
    rig.add(A, 1)
    rig.add(A, 5)
    assert rig.deadlines.next_due() == T0 + timedelta(seconds=5)
    assert (rig.over(4), rig.over(5)) == ([], [A])


def test_what_is_taken_up_again_at_the_same_time_is_due_once() -> None:
    rig = Rig()
    for _ in range(2):
        rig.add(A, 1)
    assert (rig.over(1), rig.deadlines.next_due()) == ([A], None)


def test_what_is_over_is_swept_out_and_what_holds_is_not() -> None:
    rig = Rig()
    rig.add(A, 5_000)
    for number in range(1_000):
        rig.add(WorkloadId(str(number)), 9_000)
        del rig.due[WorkloadId(str(number))]
    assert len(rig.deadlines) < 100
    assert rig.over(5_000) == [A]
