from __future__ import annotations

from datetime import timedelta

from arcray.core.ids import AccountId, WorkloadId
from arcray.core.pending import Lane, PendingQueue
from arcray.core.workload import Priority
from arcray.testing.builders import T0
from arcray.testing.world import candidates

A, B, C, D = (WorkloadId(name) for name in "abcd")


def test_heads_come_by_priority_then_arrival() -> None:
    queue = PendingQueue()
    queue.add(A, Priority.BACKGROUND, "small", None)
    queue.add(B, Priority.NORMAL, "small", None)
    queue.add(C, Priority.NORMAL, "large", None)
    queue.add(D, Priority.CRITICAL, "small", None)
    assert list(candidates(queue)) == [D, B, C, A]


def test_a_refused_head_passes_over_the_rest_of_its_group_only() -> None:
    queue = PendingQueue()
    for workload_id, request in ((A, "large"), (B, "large"), (C, "small"), (D, "large")):
        queue.add(workload_id, Priority.NORMAL, request, None)
    assert list(candidates(queue)) == [A, C]


def test_a_head_that_may_not_preempt_passes_over_none_of_its_group_that_may() -> None:
    queue = PendingQueue()
    for workload_id, may_preempt in ((A, False), (B, False), (C, True), (D, True)):
        queue.add(workload_id, Priority.NORMAL, "x", None, may_preempt=may_preempt)
    assert list(candidates(queue)) == [A, C]
    assert queue.ahead_of(D, few=5) == (3, 3, (A, B, C))


def test_work_in_back_off_is_behind_all_that_asks_for_the_same() -> None:
    queue = PendingQueue()
    queue.add(A, Priority.NORMAL, "x", None, may_preempt=False)
    queue.add(B, Priority.NORMAL, "x", T0, may_preempt=True)
    assert queue.ahead_of(B, few=5) == (1, 1, (A,))


def test_a_placed_head_makes_the_next_of_its_group_a_candidate_in_order_of_arrival() -> None:
    queue = PendingQueue()
    for workload_id, request in ((A, "x"), (B, "y"), (C, "x"), (D, "y")):
        queue.add(workload_id, Priority.NORMAL, request, None)
    taken = []
    for head in candidates(queue):
        taken.append(head)
        queue.remove(head)
    assert taken == [A, B, C, D]
    assert len(queue) == 0


def test_what_has_left_the_queue_takes_no_memory_behind_an_early_arrival() -> None:
    queue = PendingQueue()
    queue.add(A, Priority.NORMAL, "x", None, Lane(AccountId("ana")))
    for number in range(10_000):
        workload_id, lane = WorkloadId(f"w{number}"), Lane(AccountId(f"account {number % 3}"))
        queue.add(workload_id, Priority.NORMAL, "x", None, lane)
        queue.add(WorkloadId(f"{workload_id} behind it"), Priority.NORMAL, "x", None, lane)
        queue.remove(workload_id)
        queue.remove(WorkloadId(f"{workload_id} behind it"))
    queue.add(B, Priority.NORMAL, "x", None, Lane(AccountId("bo")))
    (group,) = queue._groups.values()
    assert len(group._order) <= 128
    queue.remove(A)
    assert list(candidates(queue)) == [B]


def test_work_in_back_off_stands_aside_until_it_is_due() -> None:
    queue = PendingQueue()
    queue.add(A, Priority.NORMAL, "x", T0 + timedelta(seconds=5))
    assert (len(queue), queue.ready, queue.next_due()) == (1, 0, T0 + timedelta(seconds=5))
    assert queue.release_due(T0 + timedelta(seconds=4)) == 0
    assert queue.release_due(T0 + timedelta(seconds=5)) == 1
    assert list(candidates(queue)) == [A]
    assert queue.next_due() is None


def test_work_removed_in_back_off_never_comes_due() -> None:
    queue = PendingQueue()
    queue.add(A, Priority.NORMAL, "x", T0)
    queue.remove(A)
    assert A not in queue
    assert queue.next_due() is None


def test_what_stands_in_for_another_does_not_stand_aside_with_its_account() -> None:
    queue = PendingQueue()
    ana = AccountId("ana")
    queue.add(A, Priority.NORMAL, "x", None, Lane(ana))
    queue.add(B, Priority.NORMAL, "x", None, Lane(ana, instead_of=A))
    queue.add(C, Priority.NORMAL, "x", None, Lane(ana, instead_of=B))
    queue.block(A)
    assert list(candidates(queue)) == [B]
    queue.block(B)
    assert list(candidates(queue)) == [C]
    assert queue.unblock(ana)
    assert list(candidates(queue)) == [A]
