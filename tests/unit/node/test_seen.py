"""Which attempts a machine takes for new."""

from __future__ import annotations

from arcray.core.ids import WorkloadId
from arcray.core.orders import StopAttempt
from arcray.node.seen import SeenAttempts


def of(attempt: int, *, created_s: float = 5.0, workload_id: str = "w") -> StopAttempt:
    return StopAttempt(workload_id=WorkloadId(workload_id), attempt=attempt, grace_s=0.0, created_s=created_s)


def test_an_attempt_is_new_once_and_an_earlier_one_never() -> None:
    seen = SeenAttempts()
    assert [seen.note(of(each)) for each in (1, 1, 3, 2, 3)] == [True, False, True, False, False]


def test_an_id_that_comes_again_is_other_work() -> None:
    seen = SeenAttempts()
    assert [seen.note(of(2, created_s=each)) for each in (5.0, 5.0, 6.0, 6.0)] == [True, False, True, False]
    assert [seen.note(of(each, created_s=6.0)) for each in (1, 3)] == [False, True]


def test_work_of_which_nobody_knows_when_it_was_made_is_taken_for_the_same() -> None:
    seen = SeenAttempts()
    assert seen.note(of(1, created_s=0.0))  # a container of an earlier version, adopted
    assert not seen.note(of(1))
    assert seen.note(of(2))
    assert not seen.note(of(2, created_s=0.0))


def test_what_was_seen_of_late_is_remembered_and_memory_bounded() -> None:
    seen = SeenAttempts(remembered=2)
    for name in ("a", "b", "c"):
        assert seen.note(of(1, workload_id=name))
    assert [seen.note(of(1, workload_id=name)) for name in ("a", "b", "c")] == [False, False, False]
    for name in ("d", "e"):
        assert seen.note(of(1, workload_id=name))
    assert seen.note(of(1, workload_id="a"))
