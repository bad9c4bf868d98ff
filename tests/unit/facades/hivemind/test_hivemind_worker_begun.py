"""What workers may still be at: what they began and have not ended, within bounds."""

from __future__ import annotations

from arcray.core.commands import Running
from arcray.core.ids import WorkloadId
from arcray.facades.hivemind.worker_begun import BegunWork
from arcray.testing.builders import a_workload, node_id

ONE, OTHER = node_id(1), node_id(2)


def work(number: int, attempt: int = 1) -> Running:
    return Running(workload_id=a_workload(number).id, attempt=attempt)


def of(running: Running) -> tuple[WorkloadId, int]:
    return running.workload_id, running.attempt


def test_a_worker_may_be_at_what_it_began_and_did_not_end() -> None:
    begun = BegunWork()
    for each in (work(1), work(2), work(3)):
        begun.began(ONE, *of(each))
    begun.ended(ONE, *of(work(2)))
    assert begun.besides(ONE, [work(3)]) == [work(1)]
    assert begun.besides(OTHER, []) == []


def test_a_later_attempt_takes_the_place_of_an_earlier_one_whose_end_changes_nothing_then() -> None:
    begun = BegunWork()
    begun.began(ONE, *of(work(1)))
    begun.began(ONE, *of(work(1, 2)))
    begun.ended(ONE, *of(work(1)))
    assert begun.besides(ONE, [work(1)]) == [work(1, 2)]


def test_the_oldest_is_forgotten_of_too_many() -> None:
    begun = BegunWork(nodes=1, of_one=2)
    for each in (work(1), work(2), work(3)):
        begun.began(ONE, *of(each))
    assert begun.besides(ONE, []) == [work(2), work(3)]
    begun.began(OTHER, *of(work(4)))
    assert begun.besides(ONE, []) == []
    begun.ended(OTHER, *of(work(4)))
    assert begun.besides(OTHER, []) == []
