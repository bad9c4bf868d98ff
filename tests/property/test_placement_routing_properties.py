"""Routing against brute force over all nodes: the same node, the same score, the same reasons."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.ids import ModelId, NodeId
from arcray.core.placement.formulas import CODE, DOCUMENTS, Formula, RoutingNode
from arcray.core.placement.routing import RoutingIndex

KILOMETRES = [
    Fraction(km) for km in ("5000", "5000", "1250", "156", "39", "5", "1.2")
]  # by length of the common prefix, as the protocol lists


@dataclass
class NaiveNode:
    node: RoutingNode
    slots: dict[ModelId, int] = field(default_factory=dict)
    in_flight: dict[ModelId, int] = field(default_factory=dict)


Request: TypeAlias = tuple[ModelId, str, str]  # model, geohash, geozone


class Naive:
    """Scores every node for every request, in fractions."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.nodes: dict[NodeId, NaiveNode] = {}

    def refusal(self, known: NaiveNode, model: ModelId, now_s: float) -> str | None:
        node = known.node
        checks = [
            ("schedulable", node.schedulable),
            ("model", model in known.slots),
            ("slots", known.in_flight.get(model, 0) < known.slots.get(model, 0)),
            ("utilization", not node.admits_by_utilization or node.utilization < 0.85),
            ("fresh", not node.admits_by_utilization or now_s - node.last_seen_s <= 30),
        ]
        return next((name for name, passed in checks if not passed), None)

    def score(self, known: NaiveNode, request: Request) -> Fraction:
        model, geohash, geozone = request
        node = known.node
        slots = known.slots[model]
        in_flight = Fraction(known.in_flight.get(model, 0) * 1_000_000 // slots, 1_000_000)
        load = max(Fraction(round(node.utilization * 1_000_000), 1_000_000), in_flight)
        battery = Fraction(str(node.battery_level))
        if self.formula is DOCUMENTS:
            same = bool(geozone) and node.geozone == geozone
            return 100 * same + 50 * node.cogen + 30 * (1 - load) + 20 * battery
        latency = Fraction(50)
        if geohash and node.geohash:
            common = next((i for i in range(6) if geohash[i : i + 1] != node.geohash[i : i + 1] or not geohash[i:]), 6)
            latency = 1 + KILOMETRES[common] / 10
        bonus = 1 * node.cogen + Fraction(1, 2) * (battery > Fraction("0.8"))
        return bonus - latency / 50 - load

    def best(self, request: Request, now_s: float) -> NodeId | None:
        fitting = [n for n in self.nodes.values() if self.refusal(n, request[0], now_s) is None]
        return min(fitting, key=lambda n: (-self.score(n, request), n.node.id)).node.id if fitting else None


MODELS = [ModelId("llama"), ModelId("phi")]
models = st.sampled_from(MODELS)
node_ids = st.integers(0, 14).map(lambda number: NodeId(f"n{number:02}"))
geohashes = st.one_of(
    st.sampled_from(["", "9", "9q", "9q9", "9q9hvu", "9q9hvv", "9q9hab", "9q8zzz", "9x0000", "dr5rsj", "s00000"]),
    st.text(alphabet="9qh", min_size=0, max_size=6),
)
geozones = st.sampled_from(["", "CAISO", "PJM"])
nodes = st.builds(
    RoutingNode,
    id=node_ids,
    last_seen_s=st.sampled_from([0.0, 10.0, 40.0, 80.0]),
    geohash=geohashes,
    geozone=geozones,
    cogen=st.booleans(),
    battery_level=st.sampled_from([0.0, 0.5, 0.8, 0.81, 1.0]),
    utilization=st.sampled_from([0.0, 0.25, 0.42, 0.5, 0.8499, 0.85, 1.0]),
    admits_by_utilization=st.booleans(),
    schedulable=st.sampled_from([True, True, True, False]),
)
requests = st.tuples(models, geohashes, geozones)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("node"), nodes),
        st.tuples(st.just("models"), st.tuples(node_ids, st.dictionaries(models, st.integers(1, 3)))),
        st.tuples(st.just("remove"), node_ids),
        st.tuples(st.just("route"), requests),
        st.tuples(st.just("route"), requests),
        st.tuples(st.just("release"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 9.9, 20.0])),
    ),
    max_size=80,
)
seeds = st.lists(st.tuples(nodes, st.dictionaries(models, st.integers(1, 3))), max_size=12)


class Pair:
    """An index and its naive counterpart, told the same."""

    def __init__(self, formula: Formula) -> None:
        self.index = RoutingIndex(formula)
        self.naive = Naive(formula)
        self.held: list[tuple[NodeId, ModelId]] = []

    def upsert(self, node: RoutingNode) -> None:
        self.index.upsert_node(node)
        self.naive.nodes.setdefault(node.id, NaiveNode(node)).node = node

    def read(self, said: RoutingNode, *, load_only: bool) -> None:
        """A known node's reading: how busy it is, and unless ``load_only`` its energy too."""
        known = self.naive.nodes.get(said.id)
        if known is None:
            return
        node = replace(known.node, last_seen_s=said.last_seen_s, utilization=said.utilization)
        if not load_only:
            node = replace(node, cogen=said.cogen, battery_level=said.battery_level)
        self.index.read(
            node.id,
            last_seen_s=node.last_seen_s,
            utilization=node.utilization,
            cogen=node.cogen,
            battery_level=node.battery_level,
        )
        known.node = node

    def set_models(self, node_id: NodeId, slots: dict[ModelId, int]) -> None:
        if node_id in self.naive.nodes:
            self.index.set_models(node_id, slots)
            self.naive.nodes[node_id].slots = slots

    def remove(self, node_id: NodeId) -> None:
        self.index.remove_node(node_id)
        self.naive.nodes.pop(node_id, None)
        self.held = [pair for pair in self.held if pair[0] != node_id]

    def release(self, number: int) -> None:
        if self.held:
            node_id, model = self.held.pop(number % len(self.held))
            assert self.index.release(node_id, model)
            self.naive.nodes[node_id].in_flight[model] -= 1

    def route(self, request: Request, now_s: float) -> None:
        model = request[0]
        chosen = _route_both(self.index, self.naive, request, now_s)
        if chosen is not None:
            self.index.acquire(chosen, model)
            in_flight = self.naive.nodes[chosen].in_flight
            in_flight[model] = in_flight.get(model, 0) + 1
            self.held.append((chosen, model))

    def check_in_flight(self) -> None:
        for node_id, known in self.naive.nodes.items():
            for model, count in known.in_flight.items():
                assert self.index.in_flight(node_id, model) == count


@pytest.mark.parametrize("formula", [CODE, DOCUMENTS], ids=["code", "documents"])
@given(pool=seeds, history=steps)
@settings(max_examples=100, deadline=None)
def test_routing_decides_like_brute_force(
    formula: Formula, pool: list[tuple[RoutingNode, dict[ModelId, int]]], history: list[tuple[str, Any]]
) -> None:
    pair = Pair(formula)
    now_s = 10.0
    for node, slots in pool:
        pair.upsert(node)
        pair.set_models(node.id, slots)
    for kind, value in history:
        match kind:
            case "node":
                pair.upsert(value)
            case "models":
                pair.set_models(*value)
            case "remove":
                pair.remove(value)
            case "release":
                pair.release(value)
            case "route":
                pair.route(value, now_s)
            case _:
                now_s += value
    pair.check_in_flight()


DENSE_PLACES = ["", "9", "9q", "9q9", "9q9h", "9q9hvu", "9q9hvv", "9q9hab", "9q9kab", "9q8kab", "9x0000", "dr5rsj"]


def dense_node(rng: random.Random, now_s: float) -> RoutingNode:
    """A node among few places, with readings that make scores meet often."""
    return RoutingNode(
        id=NodeId(f"n{rng.randrange(50):02}"),
        last_seen_s=now_s - rng.choice([0.0, 0.0, 10.0, 30.0]),
        geohash=rng.choice(DENSE_PLACES),
        geozone=rng.choice(["", "CAISO", "PJM"]),
        cogen=rng.random() < 0.4,
        battery_level=rng.choice([0.0, 0.5, 0.8, 1.0]),
        utilization=rng.choice([0.0, 0.25, 0.3096, 0.5, 0.8499, 0.85, 1.0]),
        admits_by_utilization=rng.random() < 0.3,
        schedulable=rng.random() < 0.9,
    )


@pytest.mark.parametrize("formula", [CODE, DOCUMENTS], ids=["code", "documents"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_routing_decides_like_brute_force_in_a_busy_pool(formula: Formula, seed: int) -> None:
    """Slow by intent (0.1 s an example): many nodes in few places, nearly full, that come, go and move."""
    rng = random.Random(seed)
    pair = Pair(formula)
    now_s = 100.0
    for _ in range(60):
        node = dense_node(rng, now_s)
        pair.upsert(node)
        pair.set_models(node.id, {model: rng.randint(1, 3) for model in MODELS if rng.random() < 0.8})
    for _ in range(120):
        step = rng.random()
        if step < 0.5:
            pair.route((rng.choice(MODELS), rng.choice(DENSE_PLACES), rng.choice(["", "CAISO", "PJM"])), now_s)
        elif step < 0.75:
            pair.release(rng.randrange(1000))
        elif step < 0.85:
            pair.read(dense_node(rng, now_s), load_only=rng.random() < 0.5)
        elif step < 0.9:
            pair.upsert(dense_node(rng, now_s))
        elif step < 0.95:
            pair.remove(NodeId(f"n{rng.randrange(50):02}"))
        else:
            now_s += rng.choice([0.1, 5.0, 20.0])
    pair.check_in_flight()


def _route_both(index: RoutingIndex, naive: Naive, request: Request, now_s: float) -> NodeId | None:
    """Routes with both and compares what they say; returns the node."""
    model, geohash, geozone = request
    chosen = index.route(model, geohash, now_s, geozone)
    assert chosen == naive.best(request, now_s)
    if chosen is not None:
        expected = naive.score(naive.nodes[chosen], request)
        assert index.score(chosen, model, geohash, geozone) == pytest.approx(float(expected), abs=1e-9)
    refusals: dict[str, int] = {}
    for known in naive.nodes.values():
        name = naive.refusal(known, model, now_s)
        if name:
            refusals[name] = refusals.get(name, 0) + 1
    explained = index.explain(model, now_s)
    assert {refusal.filter: refusal.nodes for refusal in explained.refusals} == refusals
    assert explained.fits + sum(refusals.values()) == explained.nodes == len(naive.nodes)
    return chosen


@given(pool=seeds, queue=st.lists(requests, max_size=20))
@settings(max_examples=100, deadline=None)
def test_routing_does_not_depend_on_the_order_in_which_nodes_came(
    pool: list[tuple[RoutingNode, dict[ModelId, int]]], queue: list[Request]
) -> None:
    latest = list({node.id: (node, slots) for node, slots in pool}.values())
    answers = []
    for order in (latest, latest[::-1]):
        index = RoutingIndex()
        for node, slots in order:
            index.upsert_node(node)
            index.set_models(node.id, slots)
        chosen = []
        for model, geohash, geozone in queue:
            node_id = index.route(model, geohash, 20.0, geozone)
            if node_id is not None:
                index.acquire(node_id, model)
            chosen.append(node_id)
        answers.append(chosen)
    assert answers[0] == answers[1]
