"""Budget: an order reaches its claw node within 100 ms (p99) while 1,000 are connected to one gateway, on two cores.

    python -m pytest tests/bench/bench_claw_nodes.py -m bench -s

Each node sends a heartbeat every 10 s and a reading of its four GPUs as often, in JSON of either form or in bincode.
An order is measured from the submission by REST to the frame at the node: it is validated, placed and on disk by then.
Gateway and scheduler are two processes without Ray (``stack``), the nodes are a third one (``claw_nodes``). The share
of a core is what the gateway's and the scheduler's process use meanwhile, orders included.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.bench.report import ROUNDS, check, row
from tests.bench.stack import stack

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

BUDGET_MS: Final = 100.0
NODES: Final = 1_000
EVERY_S: Final = 10
ORDERS, PER_S = 200, 20.0
ROOT: Final = Path(__file__).parents[2]


@contextmanager
def nodes_of(url: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "tests.bench.claw_nodes", url, str(NODES), str(EVERY_S)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the nodes have ended; their error is above"
    return json.loads(line)


def test_orders_reach_one_of_a_thousand_nodes() -> None:
    claw = {"heartbeat_s": EVERY_S, "metrics_s": EVERY_S}
    gateway_cores: list[float] = []
    scheduler_cores: list[float] = []
    medians: list[float] = []
    p99s: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="arcray-") as directory,
        stack(Path(directory), claw=claw) as served,
        nodes_of(served.url) as fleet,
    ):
        assert told(fleet) == NODES
        assert fleet.stdin is not None
        for _ in range(ROUNDS):
            began_s, before = time.monotonic(), served.processor_s()
            fleet.stdin.write(f"{ORDERS} {PER_S}\n")
            fleet.stdin.flush()
            took_ms = told(fleet)
            passed_s, after = time.monotonic() - began_s, served.processor_s()
            assert len(took_ms) == ORDERS
            scheduler_cores.append((after[0] - before[0]) / passed_s)
            gateway_cores.append((after[1] - before[1]) / passed_s)
            medians.append(statistics.median(took_ms))
            p99s.append(statistics.quantiles(took_ms, n=100, method="inclusive")[98])
    check([
        row("claw: order to its node, p99", p99s, "ms", better="lower", budget=BUDGET_MS),
        row("  median", medians, "ms", better="lower"),
        row("  gateway, 1,000 nodes every 10 s", gateway_cores, "core", better="lower"),
        row("  scheduler in that time", scheduler_cores, "core", better="lower"),
    ])  # fmt: skip
