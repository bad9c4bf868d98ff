"""Whatever happens, the promises hold: every seed is a cluster, a schedule and its bad luck."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from arcray.testing.simulation.rounds import broken_promises
from tests.rounds import LookedAt, rounds

SEEDS = rounds(200, 5_000)
AT_ONCE = 25
FIRST = range(1, SEEDS + 1, AT_ONCE)


@pytest.fixture(scope="module")
def played() -> Iterator[dict[int, Future[list[str]]]]:
    """All seeds, by two processes that begin at once; the tests wait for their share."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield {first: pool.submit(broken_promises, range(first, first + AT_ONCE)) for first in FIRST}
        pool.shutdown(cancel_futures=True)


@pytest.mark.chaos
@pytest.mark.timeout(900)  # real time, of which a machine that is busy with something else gives little
@pytest.mark.parametrize("first", FIRST)
def test_every_promise_is_kept(played: dict[int, Future[list[str]]], first: int, looked_at: LookedAt) -> None:
    """Plays 25 seeds: some seven seconds of one core, of which 200 seeds make up some fifty-five."""
    broken = played[first].result()
    looked_at(seeds=AT_ONCE)
    assert not broken, "\n" + "\n".join(broken)
