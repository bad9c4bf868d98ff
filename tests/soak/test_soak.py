"""Short workloads by the thousand: memory stays where it is, and every queue within its bound.

5,000 of them in `make test`, with little kept on purpose, so that the first tenth fills it; 100,000 as production keeps
them in `make chaos` and `make bench`.

Resident memory is what the kernel counts, C libraries included. Traced memory is what Python holds: over few workloads
it shows a leak of one entry each, which the kernel's pages are too coarse for.
"""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Final

import pytest

from arcray.core.policy import ClusterPolicy
from tests.rounds import CHAOS, LookedAt, rounds
from tests.soak.soak import resident_bytes, soaking

WORKLOADS: Final = rounds(5_000, 100_000)
POLICY: Final = ClusterPolicy() if CHAOS else ClusterPolicy(keep_finished=100, keep_finished_inference=100)
PLACES: Final = rounds(97, 9_973)  # routing remembers those too, so that few workloads must come from few
GROWTH: Final = 0.05
LEAK_BYTES: Final = 64  # for each workload; one forgotten entry of a dictionary is more, latencies kept are less

pytestmark = pytest.mark.timeout(1_200)


def traced_bytes() -> int:
    """Returns what Python holds of what it took since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.chaos
async def test_memory_stays_where_it_is_and_every_queue_within_its_bound(tmp_path: Path, looked_at: LookedAt) -> None:
    """Slow by intent: all that is kept on purpose must be full before growth means anything."""
    async with soaking(tmp_path, POLICY, places=PLACES) as soak:
        await soak.through(WORKLOADS // 10)
        before = resident_bytes()
        for _ in range(9):
            await soak.through(WORKLOADS // 10)
            await soak.check_queues()
        after = resident_bytes()
    print(f"{soak.done:,} workloads: {before / 2**20:,.1f} MiB after a tenth, {after / 2**20:,.1f} MiB at the end")
    looked_at(soaked_workloads=soak.done)
    assert after < before * (1 + GROWTH)


async def test_nothing_is_kept_of_a_workload_that_was_let_go_of(tmp_path: Path) -> None:
    """Slow by intent, as above; tracing doubles it. At the length of chaos the other test sees as much."""
    async with soaking(tmp_path, POLICY, places=PLACES) as soak:
        await soak.through(WORKLOADS // 10)
        tracemalloc.start()
        try:
            # What is kept on purpose is replaced once, so that all of it is traced.
            await soak.through(WORKLOADS // 10)
            before = traced_bytes()
            await soak.through(WORKLOADS // 2)
            grown = traced_bytes() - before
        finally:
            tracemalloc.stop()
    assert grown / (WORKLOADS // 2) < LEAK_BYTES
