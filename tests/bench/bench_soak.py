"""Budget: 100,000 workloads through in one soak, with memory growing by less than 5 % after the first tenth.

    python -m pytest tests/bench/bench_soak.py -m bench -s

Limits and retention are those of production; see ``tests/soak`` for what goes through. The quartiles of the rate and of
the processor are those of the ten tenths, whose growth is told by the least and the most.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, process_time
from typing import Final

import pytest

from arcray.core.policy import ClusterPolicy
from tests.bench.report import BenchRow, check, row
from tests.soak.soak import resident_bytes, soaking

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

BUDGET_PERCENT: Final = 5.0
TENTH: Final = 10_000


@pytest.mark.usefixtures("tuned")
async def test_memory_stays_where_it_is(tmp_path: Path) -> None:
    rates: list[float] = []
    costs: list[float] = []
    resident: list[int] = []
    async with soaking(tmp_path, ClusterPolicy()) as soak:
        for _ in range(10):
            began, processor = perf_counter(), process_time()
            await soak.through(TENTH)
            rates.append(TENTH / (perf_counter() - began))
            costs.append((process_time() - processor) / TENTH * 1e6)
            await soak.check_queues()
            resident.append(resident_bytes())
    grown = [(after / resident[0] - 1) * 100 for after in resident[1:]]
    check(
        [
            row("soak of 100,000 workloads, through", rates, "/s", better="higher"),
            row("  processor of plane and nodes", costs, "us", better="lower"),
            row("  resident memory", [each / 2**20 for each in resident], "MiB", better="lower"),
            BenchRow(
                name="  growth after the first tenth, at the end",
                value=grown[-1],
                unit="%",
                budget=BUDGET_PERCENT,
                better="lower",
                quartiles=(min(grown), max(grown)),
            ),
        ]
    )
