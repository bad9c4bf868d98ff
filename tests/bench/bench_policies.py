"""Budgets of the policies of placement: choosing victims, placing gangs, holding nodes back.

    python tests/bench/bench_policies.py

Machine: two cores, shared. The pool is 5,000 nodes, 60 % without GPUs and 40 % with 4 or 8, filled until a tenth of the
demands find no place; half of what runs may be preempted, at two priorities. A choice is measured without the event
and order of its victims. Of the demands for which a choice is made nothing fits anywhere; those in vain ask for what no
node could give even then. Bare: one numpy scan of three columns. A round is the whole ``Schedule`` command.
Times are of the processor: nothing here waits for anything but it.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
import pytest

if __name__ == "__main__":  # run by its path: the repository is not on sys.path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arcray.core.cluster import Cluster
from arcray.core.commands import AttachNode, Schedule, SubmitWorkload
from arcray.core.gang import Gang, Layout
from arcray.core.ids import WorkloadId
from arcray.core.placement.explain import Explanation
from arcray.core.placement.request import PlacementRequest
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, node_id
from tests.bench.report import ROUNDS, BenchRow, alternate, row, table

pytestmark = pytest.mark.bench

NODES = 5_000
CHOICES = 300  # in each round
GANG = 64


class Pool:
    """A full pool, in which work of two priorities may be ended."""

    def __init__(self, nodes: int) -> None:
        self.rng = random.Random(nodes)
        self.cluster = Cluster(ClusterPolicy(round_batch=10**6, round_decisions=10**6, max_gang_size=GANG), T0)
        self.numbers = iter(range(1, 10**7))
        for number in range(nodes):
            gpus = self.rng.choice([0, 0, 0, 4, 8])
            capacity = a_capacity(cores=self.rng.choice([16, 32, 64, 96]), memory_gib=256, gpus=gpus)
            self.cluster.handle(AttachNode(registration=a_node(number, capacity=capacity)), T0)
        refused = 0
        while refused < 0.1 * nodes:
            refused += not self._fill()
        self.cluster.handle(Schedule(), T0)

    def _fill(self) -> bool:
        rng = self.rng
        spec = a_workload(
            next(self.numbers),
            demand=self.demand(),
            priority=rng.choice([Priority.NORMAL, Priority.BACKGROUND]),
            preemptible=rng.random() < 0.5,
        )
        workload_id = WorkloadId(spec.id)
        self.cluster.handle(SubmitWorkload(spec=spec), T0 + timedelta(seconds=rng.randrange(10_000)))
        workload = self.cluster.state.workloads[workload_id]
        if workload.phase is Phase.PENDING:
            self.cluster.state.dequeue(workload)  # it would only lengthen the rounds that are measured
            del self.cluster.state.workloads[workload_id]
            return False
        return True

    def demand(self) -> Demand:
        rng = self.rng
        kind = rng.random()
        gpus = 0 if kind < 0.5 else rng.choice([1, 1, 2, 4])
        share = rng.randrange(10, 60) * GIB if kind > 0.8 else None
        return Demand(
            cpu_milli=rng.randrange(1000, 16_000),
            memory_bytes=rng.randrange(1, 48) * GIB,
            gpus=gpus,
            gpu_memory_bytes=share,
        )

    def refused(self, count: int, *, in_vain: bool = False) -> list[PlacementRequest]:
        """Requests that fit nowhere."""
        engine = self.cluster.state.placement
        found: list[PlacementRequest] = []
        while len(found) < count:
            demand = self.demand()
            if in_vain:
                demand = replace(demand, memory_bytes=300 * GIB)
            request = PlacementRequest(demand=demand, wants=frozenset({"container"}))
            if in_vain or isinstance(engine.place(request), Explanation):
                found.append(request)
        return found

    def choices(self, requests: list[PlacementRequest]) -> list[float]:
        """Seconds of each choice."""
        state, now_s = self.cluster.state, T0.timestamp() + 20_000
        seconds = []
        for request in requests:
            began = process_time()
            state.reclaimable.choose(state.placement, request, Priority.CRITICAL, now_s)
            seconds.append(process_time() - began)
        return seconds


@cache
def pool(nodes: int) -> Pool:
    return Pool(nodes)


def scan_us(nodes: int) -> float:
    rng = np.random.default_rng(nodes)
    cpu, memory, gpus = (rng.integers(0, high, nodes) for high in (96_000, 512 * GIB, 9))
    began = process_time()
    for number in range(300):
        fits = (cpu >= 1000 + number) & (memory >= GIB) & (gpus >= 1)
        assert fits[int(fits.argmax())]
    return (process_time() - began) / 300 * 1e6


def preemption_rows() -> list[BenchRow]:
    requests, vain = pool(NODES).refused(CHOICES), pool(NODES).refused(CHOICES, in_vain=True)
    p99_ms: list[float] = []

    def choice_us() -> float:
        seconds = sorted(pool(NODES).choices(requests))
        p99_ms.append(seconds[int(len(seconds) * 0.99)] * 1e3)
        return sum(seconds) / len(seconds) * 1e6

    ours, bare = alternate(choice_us, lambda: scan_us(NODES))
    in_vain = [sum(pool(NODES).choices(vain)) / len(vain) * 1e6 for _ in range(ROUNDS)]
    return [
        row("choice of victims, 5,000 nodes", ours, "us", better="lower", budget=1_000, bare=bare),
        row("  99th percentile", p99_ms, "ms", better="lower", budget=2),
        row("  in vain", in_vain, "us", better="lower", budget=500),
    ]


def gang_rows() -> list[BenchRow]:
    engine = pool(NODES).cluster.state.placement
    small = PlacementRequest(demand=Demand(cpu_milli=100), wants=frozenset({"container"}))
    huge = PlacementRequest(demand=Demand(cpu_milli=1000, gpus=8), wants=frozenset({"container"}))

    def together_ms(request: PlacementRequest) -> float:
        began = process_time()
        placed = place_together(engine, [request] * GANG, Layout.ANY)
        assert isinstance(placed, Shortfall) == (request is huge)
        return (process_time() - began) * 1e3

    return [
        row("gang of 64 placed", [together_ms(small) for _ in range(ROUNDS)], "ms", better="lower", budget=20),
        row("gang of 64 refused", [together_ms(huge) for _ in range(ROUNDS)], "ms", better="lower", budget=20),
    ]


def holding_rows() -> list[BenchRow]:
    """A gang that has waited long enough, and a hundred different demands behind it."""
    cluster = Pool(NODES).cluster
    arrival = T0 + timedelta(seconds=20_000)
    for number in range(NODES):  # so that no node is idle
        spec = a_workload(10**7 + number, demand=Demand(cpu_milli=1), node_id=node_id(number))
        cluster.handle(SubmitWorkload(spec=spec), arrival)
    cluster.handle(Schedule(), arrival)
    for number in range(GANG):
        # The first could run on most nodes, so most are held back; the others are what is left for the demands behind.
        demand = Demand(cpu_milli=96_000 if number else 20_000)
        spec = a_workload(10**8 + number, demand=demand, gang=Gang(id="g", size=GANG))
        cluster.handle(SubmitWorkload(spec=spec), arrival)

    def round_ms(after_s: float = 100) -> float:
        began = process_time()
        cluster.handle(Schedule(), arrival + timedelta(seconds=after_s))
        return (process_time() - began) * 1e3

    alone = [round_ms() for _ in range(ROUNDS)]
    for number in range(100):
        spec = a_workload(10**9 + number, demand=Demand(cpu_milli=15_000 + number))
        cluster.handle(SubmitWorkload(spec=spec), arrival)
    first = []
    for number in range(ROUNDS):
        cluster.state.nodes_changed += 1
        first.append(round_ms(110 + 10 * number))
    then = [round_ms(170) for _ in range(ROUNDS)]
    assert cluster.state.gangs.holder is not None
    return [
        row("round of a gang that waits alone", alone, "ms", better="lower"),
        row("  and 100 demands held back, nodes anew", first, "ms", better="lower", budget=500),
        row("  and 100 demands held back", then, "ms", better="lower", budget=100),
    ]


def rows() -> list[BenchRow]:
    return [*preemption_rows(), *gang_rows(), *holding_rows()]


@pytest.mark.timeout(600)
def test_policies_keep_their_budgets() -> None:
    measured = rows()
    print(f"\n{table(measured)}")
    assert [each.name for each in measured if not each.met] == []


if __name__ == "__main__":
    print(table(rows()))
