from __future__ import annotations

import asyncio

from arcray.control.waiters import Waiters
from arcray.core.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from arcray.core.ids import WorkloadId

A, B = WorkloadId("a"), WorkloadId("b")


def a_future() -> asyncio.Future[object]:
    return asyncio.get_running_loop().create_future()


async def test_everyone_who_waits_for_a_workload_is_taken_once() -> None:
    waiters = Waiters(limit=9, term_s=10)
    first, second, other = a_future(), a_future(), a_future()
    waiters.add(A, first, 0)
    waiters.add(A, second, 1)
    waiters.add(B, other, 1)
    assert waiters.take(A) == [first, second]
    assert waiters.take(A) == []
    assert len(waiters) == 1


async def test_who_has_waited_the_term_is_told() -> None:
    waiters = Waiters(limit=9, term_s=10)
    early, late = a_future(), a_future()
    waiters.add(A, early, 0)
    waiters.add(B, late, 5)
    waiters.expire(9.9)
    assert not early.done()
    waiters.expire(10)
    assert isinstance(early.result(), DeadlineExceededError)
    assert not late.done()
    assert len(waiters) == 1


async def test_too_many_are_refused_at_once() -> None:
    waiters = Waiters(limit=1, term_s=10)
    waiters.add(A, a_future(), 0)
    refused = a_future()
    waiters.add(B, refused, 0)
    assert isinstance(refused.result(), ResourceExhaustedError)
    assert waiters.take(B) == []


async def test_a_failure_is_told_to_all_but_those_who_have_gone() -> None:
    waiters = Waiters(limit=9, term_s=10)
    here, gone = a_future(), a_future()
    waiters.add(A, here, 0)
    waiters.add(B, gone, 0)
    gone.cancel()
    error = UnavailableError()
    waiters.fail(error)
    assert here.result() is error
    assert len(waiters) == 0
