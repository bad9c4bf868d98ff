"""Budget: durable submissions by ``POST /api/v1/workloads``, 64 in flight, at 2,000/s with a p99 of 50 ms on two cores.

    python -m pytest tests/bench/bench_rest.py -m bench -s

Gateway and scheduler are two processes with a line between them (``stack``), as in production but for Ray, which starts
them there and carries none of this. Nothing can run the containers, so that they wait: what is measured is what an
acknowledgement costs. Each round measures SQLite's own rate at the same number of rows a commit beside it, and the
route that does nothing, which is what the listener costs and what the generator can ask for.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final

import pytest

from arcray.core.ids import AccountId, WorkloadId
from arcray.core.workload import Origin, WorkloadSpec
from arcray.testing.builders import a_container
from arcray.wire.system import RandomIds, SystemClock
from tests.bench.load import measure
from tests.bench.report import ROUNDS, check, row
from tests.bench.sqlite_alone import rows_by_sqlite_alone
from tests.bench.stack import Stack, stack

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

BUDGET_PER_S: Final = 2_000
BUDGET_P99_MS: Final = 50.0
IN_FLIGHT: Final = 64
SECONDS: Final = 3.0
BATCHES: Final = 100
BODY: Final = json.dumps({"kind": "container", "image": "busybox", "command": ["true"], "name": "bench"})
CLOCK, IDS = SystemClock(), RandomIds()


def bare_per_s() -> float:
    """SQLite's own rate."""
    origin = Origin(facade="rest", account=AccountId("local"))
    batches = [
        [
            WorkloadSpec(id=WorkloadId(IDS.new()), origin=origin, payload=a_container(), created_at=CLOCK.now())
            for _ in range(IN_FLIGHT)
        ]
        for _ in range(BATCHES)
    ]
    with tempfile.TemporaryDirectory(prefix="arcray-") as directory:
        return rows_by_sqlite_alone(Path(directory), batches)


class Rounds:
    """What the rounds found."""

    def __init__(self) -> None:
        self.per_s: list[float] = []
        self.p99_ms: list[float] = []
        self.p50_ms: list[float] = []
        self.scheduler_us: list[float] = []
        self.gateway_us: list[float] = []
        self.noop: list[float] = []
        self.noop_p99_ms: list[float] = []
        self.sqlite: list[float] = []

    def submit(self, running: Stack) -> None:
        """Loads the route for some seconds."""
        before = running.processor_s()
        found = measure(f"{running.url}/api/v1/workloads", connections=IN_FLIGHT, seconds=SECONDS, body=BODY)
        after = running.processor_s()
        self.per_s.append(found.per_s)
        self.p99_ms.append(found.p99_ms)
        self.p50_ms.append(found.p50_ms)
        scheduler, gateway = (after[which] - before[which] for which in (0, 1))
        self.scheduler_us.append(scheduler / found.requests * 1e6)
        self.gateway_us.append(gateway / found.requests * 1e6)

    def bare(self, running: Stack) -> None:
        """Loads the route that does nothing, then SQLite."""
        found = measure(f"{running.url}/healthz", connections=IN_FLIGHT, seconds=SECONDS)
        self.noop.append(found.per_s)
        self.noop_p99_ms.append(found.p99_ms)
        self.sqlite.append(bare_per_s())


def test_durable_submissions_by_rest_keep_their_budget(tmp_path: Path) -> None:
    found = Rounds()
    with stack(tmp_path) as running:
        measure(f"{running.url}/api/v1/workloads", connections=IN_FLIGHT, seconds=1.0, body=BODY)
        for number in range(ROUNDS):
            for part in (found.submit, found.bare) if number % 2 == 0 else (found.bare, found.submit):
                part(running)
    check(
        [
            row(
                "submission by REST, 64 in flight",
                found.per_s, "/s", better="higher", budget=BUDGET_PER_S, bare=found.sqlite,
            ),
            row(
                "  p99, beside the no-op route's",
                found.p99_ms, "ms", better="lower", budget=BUDGET_P99_MS, bare=found.noop_p99_ms,
            ),
            row("  median latency", found.p50_ms, "ms", better="lower"),
            row("  processor of the scheduler", found.scheduler_us, "us", better="lower"),
            row("  processor of the gateway", found.gateway_us, "us", better="lower"),
            row("  the no-op route", found.noop, "/s", better="higher"),
        ]
    )  # fmt: skip
