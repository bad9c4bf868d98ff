"""Budgets of placement: the whole engine with its explanations, and the routing of inference requests.

    python tests/bench/bench_placement.py

Machine: two cores, shared. The pool is mixed (60 % without GPUs, 40 % with 4 or 8 of 80 GiB) and 70 % of its
CPU is in use before anything is measured; quantities are drawn from wide ranges, so that hardly two nodes and
hardly two demands are equal. Of the requests 5 % ask for what no node has: half of them equal to one of twenty that
wait already, half unlike any before. A placement is counted with its allocation; the release that makes room for the
next is measured apart. Bare: one numpy scan of three columns for each placement, and one heap per model with lazy
deletion for each request.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import deque
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

if __name__ == "__main__":  # run by its path: the repository is not on sys.path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arcray.core.ids import ModelId, NodeId
from arcray.core.placement.engine import Engine
from arcray.core.placement.formulas import RoutingNode
from arcray.core.placement.request import Placement, PlacementNode, PlacementRequest
from arcray.core.placement.routing import RoutingIndex
from arcray.core.quantity import GIB, MIB
from arcray.core.resources import Capacity, Demand, Gpu
from tests.bench.report import BenchRow, alternate, check, row, table

pytestmark = pytest.mark.bench

PLACEMENTS = 4_000  # in each round
REQUESTS = 20_000
FULL = 0.7  # of the CPU
NO_SUCH = 4096  # GiB that no node has


class Placing:
    """A pool in use, and a stream of requests."""

    def __init__(self, nodes: int) -> None:
        self.rng = random.Random(nodes)
        self.engine = Engine()
        cpu_milli = sum(self._join() for _ in range(nodes))
        self.held: list[Placement] = []
        used = 0
        while used < FULL * cpu_milli:
            placement = self.engine.place(PlacementRequest(demand=self._demand(), wants=self._wants()))
            if isinstance(placement, Placement):
                self.engine.allocate(placement.node_id, placement.allocation)
                self.held.append(placement)
                used += placement.allocation.cpu_milli
        self.waiting = [self._impossible() for _ in range(20)]

    def _join(self) -> int:
        rng = self.rng
        gpus = rng.choice([0, 0, 0, 4, 8])
        capacity = Capacity(
            cpu_milli=96_000 if gpus else rng.choice([16, 32, 64, 96]) * 1000,
            memory_bytes=(512 if gpus else rng.choice([64, 128, 256, 384])) * GIB,
            disk_bytes=1024 * GIB,
            gpus=tuple(Gpu(index=index, memory_bytes=80 * GIB) for index in range(gpus)),
        )
        features = frozenset({"container", "program"} if rng.random() < 0.9 else {"container"})
        node_id = NodeId(f"{rng.getrandbits(128):032x}")
        self.engine.upsert(PlacementNode(id=node_id, capacity=capacity, features=features))
        return capacity.cpu_milli

    def _demand(self) -> Demand:
        rng = self.rng
        kind, share = rng.random(), None
        gpus = 0 if kind < 0.7 else rng.choice([1, 1, 2, 4]) if kind < 0.9 else 1
        if kind >= 0.9:
            share = rng.randrange(1, 40) * GIB
        cpu_milli, memory_bytes = rng.randrange(1000, 24_000), rng.randrange(1024, 73_728) * MIB
        return Demand(cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=gpus, gpu_memory_bytes=share)

    def _wants(self) -> frozenset[str]:
        return frozenset({"container"} if self.rng.random() < 0.7 else {"program"})

    def _impossible(self) -> PlacementRequest:
        memory_bytes = NO_SUCH * GIB + self.rng.randrange(10**9)
        return PlacementRequest(demand=Demand(cpu_milli=1000, memory_bytes=memory_bytes), wants=self._wants())

    def stream(self, count: int) -> list[PlacementRequest]:
        requests = []
        for _ in range(count):
            kind = self.rng.random()
            if kind < 0.025:
                requests.append(self._impossible())
            elif kind < 0.05:
                requests.append(self.rng.choice(self.waiting))
            else:
                requests.append(PlacementRequest(demand=self._demand(), wants=self._wants()))
        return requests

    def run(self, requests: list[PlacementRequest]) -> tuple[list[float], list[float], float]:
        """Returns seconds of each placement, of each refusal, and of all releases."""
        engine, rng, held = self.engine, self.rng, self.held
        placed: list[float] = []
        refused: list[float] = []
        releasing = 0.0
        for request in requests:
            began = perf_counter()
            answer = engine.place(request)
            if not isinstance(answer, Placement):
                refused.append(perf_counter() - began)
                continue
            engine.allocate(answer.node_id, answer.allocation)
            placed.append(perf_counter() - began)
            index = rng.randrange(len(held))
            gone, held[index] = held[index], answer
            began = perf_counter()
            engine.release(gone.node_id, gone.allocation)
            releasing += perf_counter() - began
        return placed, refused, releasing


@cache
def placing(nodes: int) -> Placing:
    return Placing(nodes)


@cache
def scan(nodes: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Three columns and demands for the bare scan."""
    rng = np.random.default_rng(nodes)
    columns = np.stack([rng.integers(0, high, nodes) for high in (96_000, 512 * GIB, 9)])
    demands = random.Random(nodes)
    return columns, [(demands.randrange(100, 8000), demands.randrange(GIB, 32 * GIB), 0) for _ in range(500)]


def scans_per_s(nodes: int) -> float:
    """The bare thing: the first of all nodes that fits, by one comparison of each column."""
    (cpu, memory, gpus), demands = scan(nodes)
    began = perf_counter()
    for cpu_milli, memory_bytes, count in demands:
        fits = (cpu >= cpu_milli) & (memory >= memory_bytes) & (gpus >= count)
        assert fits[int(fits.argmax())]
    return len(demands) / (perf_counter() - began)


def placement_rows() -> list[BenchRow]:
    decisions: dict[int, list[float]] = {1000: [], 100_000: []}
    pool = placing(5000)
    p99_ms: list[float] = []
    with_release: list[float] = []
    refusals_us: list[float] = []

    def placements_per_s() -> float:
        placed, refused, releasing = pool.run(pool.stream(PLACEMENTS))
        every = sorted(placed + refused)
        p99_ms.append(every[int(len(every) * 0.99)] * 1e3)
        refusals_us.append(sum(refused) / len(refused) * 1e6)
        with_release.append(len(every) / (sum(every) + releasing))
        return len(every) / sum(every)

    per_s, scans = alternate(placements_per_s, lambda: scans_per_s(5000))

    def decision_us(nodes: int) -> float:
        placed, _, _ = placing(nodes).run(placing(nodes).stream(PLACEMENTS))
        decisions[nodes].append(sum(placed) / len(placed) * 1e6)
        return decisions[nodes][-1]

    def refusal_us(nodes: int) -> tuple[float, float]:
        """Microseconds of a refusal unlike any before, and of its repetition after a node has changed."""
        engine, held = placing(nodes).engine, placing(nodes).held
        new = again = 0.0
        for number in range(50):
            request = placing(nodes)._impossible()
            began = perf_counter()
            engine.place(request)
            new += perf_counter() - began
            engine.release(held[number].node_id, held[number].allocation)
            engine.allocate(held[number].node_id, held[number].allocation)
            began = perf_counter()
            engine.place(request)
            again += perf_counter() - began
        return new / 50 * 1e6, again / 50 * 1e6

    large, small = alternate(lambda: decision_us(100_000), lambda: decision_us(1000))
    scans_large = [scans_per_s(100_000) for _ in large]
    growth = [one / other for one, other in zip(large, small, strict=True)]
    refusals = {nodes: [refusal_us(nodes) for _ in large] for nodes in (5000, 100_000)}
    return [
        row("placements, 5,000 nodes", per_s, "/s", better="higher", budget=20_000, bare=scans),
        row("  99th percentile of a decision", p99_ms, "ms", better="lower", budget=0.5),
        row("  with a release for each", with_release, "/s", better="higher"),
        row("  refusal, half of them seen before", refusals_us, "us", better="lower"),
        row("  refusal unlike any before", [new for new, _ in refusals[5000]], "us", better="lower"),
        row("  the same again, a node changed", [again for _, again in refusals[5000]], "us", better="lower"),
        row("placement, 1,000 nodes", small, "us", better="lower"),
        row("placement, 100,000 nodes", large, "us", better="lower", bare=[1e6 / each for each in scans_large]),
        row("  against 1,000 nodes", growth, "x", better="lower", budget=3),
        row("  refusal unlike any before", [new for new, _ in refusals[100_000]], "us", better="lower"),
        row("  the same again, a node changed", [again for _, again in refusals[100_000]], "us", better="lower"),
    ]


class Routing:
    """Ten models by Zipf's law on 1 to 3 of them for each node, 8 slots each, in 200 places of one continent."""

    def __init__(self, nodes: int) -> None:
        rng = self.rng = random.Random(nodes)
        letters = "0123456789bcdefghjkmnpqrstuvwxyz"
        self.models = [ModelId(f"model-{number}") for number in range(10)]
        self.places = [
            "9" + rng.choice("qrtvwxyz") + "".join(rng.choice(letters[:8]) for _ in range(4)) for _ in range(200)
        ]
        self.index = RoutingIndex()
        self.heaps: dict[ModelId, list[tuple[float, NodeId]]] = {model: [] for model in self.models}
        for _ in range(nodes):
            node_id = NodeId(f"{rng.getrandbits(128):032x}")
            utilization = rng.random() * 0.8
            self.index.upsert_node(
                RoutingNode(
                    id=node_id,
                    last_seen_s=0.0,
                    geohash=rng.choice(self.places),
                    cogen=rng.random() < 0.4,
                    battery_level=rng.random(),
                    utilization=utilization,
                )
            )
            models = rng.sample(self.models, rng.randint(1, 3))
            self.index.set_models(node_id, dict.fromkeys(models, 8))
            for model in models:
                self.heaps[model].append((utilization, node_id))
        for heap in self.heaps.values():
            heapq.heapify(heap)
        self.version = {entry[1]: entry[0] for heap in self.heaps.values() for entry in heap}
        self.held: deque[tuple[NodeId, ModelId]] = deque()
        for model, place in self.requests(nodes // 4):
            self._take(model, place)

    def requests(self, count: int) -> list[tuple[ModelId, str]]:
        chosen = self.rng.choices(self.models, [1 / rank for rank in range(1, 11)], k=count)
        return [(model, self.rng.choice(self.places)) for model in chosen]

    def _take(self, model: ModelId, place: str) -> None:
        node_id = self.index.route(model, place, 1.0)
        assert node_id is not None
        self.index.acquire(node_id, model)
        self.held.append((node_id, model))

    def routes_per_s(self) -> float:
        requests, route = self.requests(REQUESTS), self.index.route
        began = perf_counter()
        for model, place in requests:
            route(model, place, 1.0)
        return len(requests) / (perf_counter() - began)

    def cycles_per_s(self) -> float:
        """Route and take a slot, give the oldest slot back."""
        requests, index, held = self.requests(REQUESTS), self.index, self.held
        began = perf_counter()
        for model, place in requests:
            node_id = index.route(model, place, 1.0)
            assert node_id is not None
            index.acquire(node_id, model)
            held.append((node_id, model))
            index.release(*held.popleft())
        return len(requests) / (perf_counter() - began)

    def heap_per_s(self) -> float:
        """The bare thing: the least loaded of a model from a heap, made a little busier, with lazy deletion."""
        requests, heaps, version = self.requests(REQUESTS), self.heaps, self.version
        began = perf_counter()
        for model, _ in requests:
            heap = heaps[model]
            while True:
                load, node_id = heap[0]
                if version[node_id] == load:
                    break
                heapq.heapreplace(heap, (version[node_id], node_id))
            version[node_id] = load + 1e-6
        return len(requests) / (perf_counter() - began)


@cache
def routing(nodes: int) -> Routing:
    return Routing(nodes)


def routing_rows() -> list[BenchRow]:
    pool, large, small = routing(10_000), routing(100_000), routing(1000)
    routes, bare_routes = alternate(pool.routes_per_s, pool.heap_per_s)
    cycles, bare_cycles = alternate(pool.cycles_per_s, pool.heap_per_s)
    route_us = alternate(lambda: 1e6 / large.routes_per_s(), lambda: 1e6 / small.routes_per_s())
    cycle_us = alternate(lambda: 1e6 / large.cycles_per_s(), lambda: 1e6 / small.cycles_per_s())
    route_growth, cycle_growth = (
        [one / other for one, other in zip(*pairs, strict=True)] for pairs in (route_us, cycle_us)
    )
    return [
        row("routes, 10,000 nodes", routes, "/s", better="higher", budget=100_000, bare=bare_routes),
        row("  with taking and giving back a slot", cycles, "/s", better="higher", budget=100_000, bare=bare_cycles),
        row("route, 1,000 nodes", route_us[1], "us", better="lower"),
        row("route, 100,000 nodes", route_us[0], "us", better="lower"),
        row("  against 1,000 nodes", route_growth, "x", better="lower", budget=3),
        row("route and slot, 1,000 nodes", cycle_us[1], "us", better="lower"),
        row("route and slot, 100,000 nodes", cycle_us[0], "us", better="lower"),
        row("  against 1,000 nodes", cycle_growth, "x", better="lower", budget=3),
    ]


def rows() -> list[BenchRow]:
    return [*placement_rows(), *routing_rows()]


@pytest.mark.timeout(600)
def test_placement_and_routing_keep_their_budgets() -> None:
    check(rows())


if __name__ == "__main__":
    print(table(rows()))
