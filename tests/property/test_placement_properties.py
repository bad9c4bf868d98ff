"""Placement against a naive scan: the same choice, nothing overcommitted, refusals that add up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.ids import NodeId
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Change, Explanation
from arcray.core.placement.request import Placement, PlacementNode, PlacementRequest
from arcray.core.placement.scores import POLICY, Offer
from arcray.core.resources import Allocation, Capacity, Demand, Gpu, GpuShare

FEATURES = ["container", "program", "model:onnx"]
LABELS = [("zone", "eu"), ("zone", "us"), ("disk", "fast")]


TERMS: list[tuple[str, str] | LabelTerm] = [
    LabelTerm(key="zone", operator=LabelOperator.IN, values=("eu", "us")),
    LabelTerm(key="zone", operator=LabelOperator.NOT_IN, values=("us",)),
    LabelTerm(key="disk", operator=LabelOperator.EXISTS),
    LabelTerm(key="disk", operator=LabelOperator.ABSENT),
]


def satisfies(labels: Mapping[str, str], term: tuple[str, str] | LabelTerm) -> bool:
    return term.holds(labels) if isinstance(term, LabelTerm) else labels.get(term[0]) == term[1]


@dataclass
class NaiveNode:
    """The obvious bookkeeping: a list of what is held, everything recomputed when asked."""

    node: PlacementNode
    held: list[Allocation] = field(default_factory=list)

    def cpu(self) -> int:
        return self.node.capacity.cpu_milli - sum(a.cpu_milli for a in self.held)

    def memory(self) -> int:
        return self.node.capacity.memory_bytes - sum(a.memory_bytes for a in self.held)

    def disk(self) -> int:
        return self.node.capacity.disk_bytes - sum(a.disk_bytes for a in self.held)

    def gpus(self) -> dict[int, tuple[int, bool, bool]]:
        """(bytes left to share, idle, overcommitted) by index."""
        shares = [share for allocation in self.held for share in allocation.gpus]
        memory = {gpu.index: gpu.memory_bytes for gpu in self.node.capacity.gpus}
        found = {}
        for index in sorted({*memory, *(share.index for share in shares)}):
            mine = [share for share in shares if share.index == index]
            whole = sum(share.whole for share in mine)
            shared = [share.memory_bytes for share in mine if not share.whole]
            over = index not in memory or whole + bool(shared) > 1 or sum(shared) > memory[index]
            closed = index in self.node.closed_gpus
            left = 0 if whole or over or closed else memory[index] - sum(shared)
            found[index] = (left, not mine and not closed, over)
        return found

    def idle(self) -> int:
        gpus = self.gpus().values()
        over = sum(overcommitted for _, _, overcommitted in gpus)
        return -over if over else sum(idle for _, idle, _ in gpus)

    def refusal(self, request: PlacementRequest) -> str | None:
        """The first filter that refuses, in the documented order."""
        demand, node = request.demand, self.node
        checks = [
            ("attached", node.attached),
            ("schedulable", node.schedulable),
            ("pinned", request.node_id in (None, node.id)),
            ("avoided", node.id not in request.avoid),
            ("features", not request.wants or bool(request.wants & node.features)),
            ("selector", all(satisfies(node.labels, term) for term in request.selector)),
            ("cpu", self.cpu() >= demand.cpu_milli),
            ("memory", self.memory() >= demand.memory_bytes),
            ("disk", self.disk() >= demand.disk_bytes),
            ("gpus", self._gpus_suffice(demand)),
            ("full", node.max_held is None or len(self.held) < node.max_held),
        ]
        return next((name for name, passed in checks if not passed), None)

    def _gpus_suffice(self, demand: Demand) -> bool:
        if self.idle() < 0:
            return False
        share = demand.gpu_memory_bytes
        if share is None:
            return self.idle() >= demand.gpus
        return sum(left >= share for left, _, _ in self.gpus().values()) >= demand.gpus

    def devices(self, demand: Demand) -> tuple[GpuShare, ...]:
        """Lowest idle devices when whole, fullest that fit when shared, those in use first."""
        memory = {gpu.index: gpu.memory_bytes for gpu in self.node.capacity.gpus}
        share = demand.gpu_memory_bytes
        if share is None:
            free = [index for index, (_, idle, _) in self.gpus().items() if idle][: demand.gpus]
            return tuple(GpuShare(index=index, memory_bytes=memory[index], whole=True) for index in free)
        fitting = sorted((idle, left, index) for index, (left, idle, _) in self.gpus().items() if left >= share)
        chosen = sorted(index for _, _, index in fitting[: demand.gpus])
        return tuple(GpuShare(index=index, memory_bytes=share, whole=False) for index in chosen)

    def score(self, demand: Demand) -> tuple[int | str, ...]:
        gpus = self.gpus().values()
        offer = Offer(
            cpu_milli=self.cpu(),
            memory_bytes=self.memory(),
            gpus=len({gpu.index for gpu in self.node.capacity.gpus} - self.node.closed_gpus),
            idle_gpus=self.idle(),
            open_bytes=max((left for left, idle, _ in gpus if not idle), default=0),
            tier=self.node.tier,
        )
        return (*(score(offer, demand) for score in POLICY), self.node.id)


class Naive:
    """Scans every node for every request."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, NaiveNode] = {}

    def upsert(self, node: PlacementNode) -> None:
        known = self.nodes.get(node.id)
        self.nodes[node.id] = NaiveNode(node, known.held if known else [])

    def refusals(self, request: PlacementRequest) -> dict[str, int]:
        counts: dict[str, int] = {}
        for node in self.nodes.values():
            name = node.refusal(request)
            if name:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def best(self, request: PlacementRequest) -> NodeId | None:
        fitting = [node for node in self.nodes.values() if node.refusal(request) is None]
        return min(fitting, key=lambda node: node.score(request.demand)).node.id if fitting else None


node_ids = st.integers(0, 11).map(lambda number: NodeId(f"n{number:02}"))
capacities = st.builds(
    Capacity,
    cpu_milli=st.sampled_from([0, 1000, 2000, 4000]),
    memory_bytes=st.sampled_from([0, 1 << 30, 8 << 30]),
    disk_bytes=st.sampled_from([0, 1 << 30]),
    gpus=st.lists(st.sampled_from([10, 20, 40]), max_size=4).map(
        lambda sizes: tuple(Gpu(index=index, memory_bytes=size) for index, size in enumerate(sizes))
    ),
)
nodes = st.builds(
    PlacementNode,
    id=node_ids,
    capacity=capacities,
    features=st.frozensets(st.sampled_from(FEATURES)),
    labels=st.lists(st.sampled_from(LABELS), max_size=2).map(dict),
    schedulable=st.sampled_from([True, True, True, False]),
    attached=st.sampled_from([True, True, True, False]),
    closed_gpus=st.sampled_from([frozenset(), frozenset(), frozenset({0}), frozenset({1, 2})]),
    tier=st.sampled_from([0, 0, 0, 1, 2]),
    max_held=st.sampled_from([None, None, 0, 1, 3]),
)
whole = st.builds(
    Demand,
    cpu_milli=st.integers(0, 3000),
    memory_bytes=st.integers(0, 4 << 30),
    disk_bytes=st.sampled_from([0, 0, 1 << 29]),
    gpus=st.integers(0, 4),
)
shared = st.builds(
    Demand,
    cpu_milli=st.integers(0, 1000),
    gpus=st.integers(1, 3),
    gpu_memory_bytes=st.integers(1, 45),
)
requests = st.builds(
    PlacementRequest,
    demand=st.one_of(whole, shared),
    wants=st.frozensets(st.sampled_from(FEATURES), max_size=2),
    selector=st.lists(st.sampled_from([*LABELS, *TERMS]), max_size=2, unique=True).map(tuple),
    node_id=st.one_of(st.none(), st.none(), st.none(), node_ids),
    avoid=st.frozensets(node_ids, max_size=2),
)
plain_requests = st.builds(PlacementRequest, demand=st.one_of(whole, shared))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), nodes),
        st.tuples(st.just("remove"), node_ids),
        st.tuples(st.just("place"), st.one_of(requests, plain_requests)),
        st.tuples(st.just("place"), plain_requests),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("release"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_engine_decides_like_a_naive_scan(history: list[tuple[str, object]]) -> None:
    engine, naive = Engine(), Naive()
    held: list[Placement] = []
    asked: list[PlacementRequest] = []
    for kind, value in history:
        match kind, value:
            case "upsert", PlacementNode():
                engine.upsert(value)
                naive.upsert(value)
            case "remove", str():
                engine.remove(NodeId(value))
                naive.nodes.pop(NodeId(value), None)
                held = [placement for placement in held if placement.node_id != value]
            case "place", PlacementRequest():
                asked.append(value)
                _place_both(engine, naive, held, value)
            case "again", int() if asked:
                _place_both(engine, naive, held, asked[value % len(asked)])
            case "release", int() if held:
                placement = held.pop(value % len(held))
                engine.release(placement.node_id, placement.allocation)
                naive.nodes[placement.node_id].held.remove(placement.allocation)
            case _:
                pass
        _same_free(engine, naive)


def _place_both(engine: Engine, naive: Naive, held: list[Placement], request: PlacementRequest) -> None:
    expected = naive.best(request)
    refusals = naive.refusals(request)
    explained = engine.explain(request)
    assert {refusal.filter: refusal.nodes for refusal in explained.refusals} == refusals
    assert explained.fits + sum(refusals.values()) == explained.nodes == len(naive.nodes)
    answer = engine.place(request)
    if isinstance(answer, Explanation):
        assert expected is None
        assert answer == explained
        if len(naive.nodes) < 100:
            assert answer == _fresh(naive).explain(request), "a remembered refusal says what a new one says"
        return
    assert answer.node_id == expected
    engine.allocate(answer.node_id, answer.allocation)
    node = naive.nodes[answer.node_id]
    assert answer.allocation.gpus == node.devices(request.demand)
    node.held.append(answer.allocation)
    held.append(answer)
    assert min(node.cpu(), node.memory(), node.disk(), node.idle()) >= 0, "a placement overcommitted its node"
    assert not any(overcommitted for _, _, overcommitted in node.gpus().values())
    demand, got = request.demand, answer.allocation
    assert (got.cpu_milli, got.memory_bytes, got.disk_bytes) == (
        demand.cpu_milli,
        demand.memory_bytes,
        demand.disk_bytes,
    )


def _fresh(naive: Naive) -> Engine:
    """An engine in the same state, built in another order."""
    engine = Engine()
    for node in reversed(naive.nodes.values()):
        engine.upsert(node.node)
        for allocation in reversed(node.held):
            engine.allocate(node.node.id, allocation)
    return engine


def _same_free(engine: Engine, naive: Naive) -> None:
    assert len(engine) == len(naive.nodes)
    for node_id, node in naive.nodes.items():
        free = engine.free(node_id)
        assert (free.cpu_milli, free.memory_bytes, free.disk_bytes, free.gpus) == (
            node.cpu(),
            node.memory(),
            node.disk(),
            node.idle(),
        )


@given(st.lists(nodes, max_size=12, unique_by=lambda node: node.id), st.lists(requests, max_size=12))
@settings(max_examples=75, deadline=None)
def test_choices_do_not_depend_on_the_order_in_which_nodes_came(
    pool: list[PlacementNode], queue: list[PlacementRequest]
) -> None:
    answers = []
    for order in (pool, pool[::-1]):
        engine = Engine()
        for node in order:
            engine.upsert(node)
        answers.append([_taken(engine, request) for request in queue])
    assert answers[0] == answers[1]


def _taken(engine: Engine, request: PlacementRequest) -> Placement | Explanation:
    answer = engine.place(request)
    if isinstance(answer, Placement):
        engine.allocate(answer.node_id, answer.allocation)
    return answer


@given(st.lists(nodes, min_size=1, max_size=8, unique_by=lambda node: node.id), st.lists(plain_requests, max_size=20))
@settings(max_examples=75, deadline=None)
def test_releasing_everything_restores_the_empty_pool(pool: list[PlacementNode], queue: list[PlacementRequest]) -> None:
    engine = Engine()
    for node in pool:
        engine.upsert(node)
    before = {node.id: engine.free(node.id) for node in pool}
    first = [engine.place(request) for request in queue]
    taken = [answer for request in queue if isinstance(answer := _taken(engine, request), Placement)]
    for placement in taken:
        engine.release(placement.node_id, placement.allocation)
    assert {node.id: engine.free(node.id) for node in pool} == before
    assert [engine.place(request) for request in queue] == first


def churn(rng: random.Random, pool: list[PlacementNode], queue: Iterator[PlacementRequest], steps: int) -> None:
    """Places, releases, resizes and removes at random, comparing every decision."""
    engine, naive = Engine(), Naive()
    held: list[Placement] = []
    asked: list[PlacementRequest] = []
    for node in pool:
        engine.upsert(node)
        naive.upsert(node)
    for _ in range(steps):
        step = rng.random()
        if step < 0.6 or not asked:
            asked.append(next(queue))
            _place_both(engine, naive, held, asked[-1])
        elif step < 0.75:
            _place_both(engine, naive, held, rng.choice(asked[-5:]))
        elif step < 0.9 and held:
            placement = held.pop(rng.randrange(len(held)))
            engine.release(placement.node_id, placement.allocation)
            naive.nodes[placement.node_id].held.remove(placement.allocation)
        elif step < 0.95:
            gone = rng.choice(list(naive.nodes))
            engine.remove(gone)
            del naive.nodes[gone]
            held = [placement for placement in held if placement.node_id != gone]
        else:
            changed = replace(rng.choice(list(naive.nodes.values())).node, capacity=rng.choice(pool).capacity)
            engine.upsert(changed)
            naive.upsert(changed)
    _same_free(engine, naive)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_blocks_of_a_large_pool_hide_no_node(seed: int) -> None:
    """Slow by intent (about 0.3 s an example): a pool of many blocks, so that splits, joins and stale peaks happen.

    Labels and features go with capacity, so that scopes are found in some blocks only.
    """
    rng = random.Random(seed)
    pool = []
    for number in range(700):
        gpus = rng.choice([0, 0, 0, 4])
        cpu_milli = rng.randrange(0, 8000)
        size = "big" if cpu_milli > 6500 else "small"
        pool.append(
            PlacementNode(
                id=NodeId(f"n{rng.randrange(10**6):06}-{number}"),
                capacity=Capacity(
                    cpu_milli=cpu_milli,
                    memory_bytes=rng.randrange(0, 64) << 22,
                    gpus=tuple(Gpu(index=index, memory_bytes=80) for index in range(gpus)),
                ),
                features=frozenset({"container" if size == "small" else rng.choice(FEATURES)}),
                labels={"size": size, "host": str(number)},
                tier=rng.choice([0, 0, 1, 2]),
                max_held=rng.choice([None, None, 1, 2]),
            )
        )
    churn(rng, pool, _many_requests(rng), 60)


def _not_small() -> LabelTerm:
    return LabelTerm(key="size", operator=LabelOperator.NOT_IN, values=("small",))


def _many_requests(rng: random.Random) -> Iterator[PlacementRequest]:
    while True:
        share = rng.choice([None, None, rng.randrange(1, 80)])
        yield PlacementRequest(
            demand=Demand(
                cpu_milli=rng.randrange(0, 6000),
                memory_bytes=rng.randrange(0, 48) << 22,
                gpus=rng.choice([1, 2, 4]) if share else rng.choice([0, 0, 0, 1, 4]),
                gpu_memory_bytes=share,
            ),
            wants=rng.choice([frozenset(), frozenset({"container"}), frozenset({"program", "model:onnx"})]),
            selector=rng.choice([(), (), (("size", "big"),), (("host", str(rng.randrange(700))),), (_not_small(),)]),
        )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_gpus_of_a_crowded_pool_are_chosen_like_a_naive_scan(seed: int) -> None:
    """Slow by intent (0.1 s an example): few nodes with many GPUs of mixed sizes, shared and whole, that shrink."""
    rng = random.Random(seed)
    pool = [
        PlacementNode(
            id=NodeId(f"n{number:02}"),
            capacity=Capacity(
                cpu_milli=rng.choice([4000, 8000]),
                memory_bytes=1 << 30,
                gpus=tuple(
                    Gpu(index=index, memory_bytes=rng.choice([20, 40])) for index in range(rng.choice([0, 2, 4]))
                ),
            ),
        )
        for number in range(16)
    ]
    churn(rng, pool, _gpu_requests(rng), 120)


def _gpu_requests(rng: random.Random) -> Iterator[PlacementRequest]:
    while True:
        share = rng.choice([None, 5, 10, 15, 30])
        gpus = rng.choice([1, 1, 1, 2, 3]) if share else rng.choice([0, 1, 2])
        yield PlacementRequest(demand=Demand(cpu_milli=rng.choice([0, 100, 900]), gpus=gpus, gpu_memory_bytes=share))


@given(
    st.lists(nodes, min_size=1, max_size=8, unique_by=lambda node: node.id),
    st.lists(plain_requests, max_size=12),
    requests,
)
@settings(max_examples=400, deadline=None)
def test_following_the_suggestion_makes_the_request_fit(
    pool: list[PlacementNode], earlier: list[PlacementRequest], request: PlacementRequest
) -> None:
    engine = Engine()
    for node in pool:
        engine.upsert(node)
    placed = [answer for asked in earlier if isinstance(answer := _taken(engine, asked), Placement)]
    refused = engine.place(request)
    if not isinstance(refused, Explanation):
        return
    assert (refused.change is None) == (refused.suggestion == "")
    if refused.change is not None:
        assert isinstance(_followed(engine, pool, placed, request, refused.change), Placement)


def _followed(
    engine: Engine, pool: list[PlacementNode], placed: list[Placement], request: PlacementRequest, change: Change
) -> Placement | Explanation:
    """Changes what the suggestion says and nothing else, and asks again."""
    if change.what == "uncordon":
        for node in pool:
            engine.upsert(replace(node, schedulable=True))
    elif change.what == "freeGpus":
        for placement in placed:
            engine.release(placement.node_id, placement.allocation)
    elif change.what in CONDITIONS:
        return engine.place(replace(request, **CONDITIONS[change.what]))
    else:
        return engine.place(replace(request, demand=_less(request.demand, change)))
    return engine.place(request)


CONDITIONS: dict[str, dict[str, Any]] = {
    "pin": {"node_id": None},
    "exclusion": {"avoid": frozenset()},
    "selector": {"selector": ()},
}


def _less(demand: Demand, change: Change) -> Demand:
    name = {"cpu": "cpu_milli", "memory": "memory_bytes", "disk": "disk_bytes", "gpuMemory": "gpu_memory_bytes"}.get(
        change.what, change.what
    )
    left = getattr(demand, name) - change.by
    less: dict[str, Any] = {name: left}
    if name == "gpus" and not left:
        less["gpu_memory_bytes"] = None
    return replace(demand, **less)
