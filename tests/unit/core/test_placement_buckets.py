"""Buckets and ranks: the least key is found however long the bucket, and ranks stand in the order of the ids."""

from __future__ import annotations

import random

import pytest

from arcray.core.ids import ModelId, NodeId
from arcray.core.placement.formulas import RoutingNode
from arcray.core.placement.ranks import RANK_BITS, Ranks
from arcray.core.placement.routing import RoutingIndex

LLAMA = ModelId("llama")


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_ranks_stand_in_the_order_of_the_ids(order: str) -> None:
    ids = [NodeId(f"{number:04}") for number in range(1000)]
    if order == "descending":
        ids.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(ids)
    ranks = Ranks()
    for node_id in ids:
        ranks.add(node_id)
    by_rank = sorted(ids, key=ranks.__getitem__)
    assert by_rank == sorted(ids)
    assert ranks[by_rank[0]] >= 0
    assert ranks[by_rank[-1]] < 1 << RANK_BITS


def test_ids_that_come_in_order_seldom_change_the_ranks_of_others() -> None:
    ranks = Ranks()
    assert sum(ranks.add(NodeId(f"{number:06}")) for number in range(20_000)) == 0


def test_crowded_gap_spreads_all_ranks_anew() -> None:
    ranks = Ranks()
    ranks.add(NodeId("a"))
    ranks.add(NodeId("z"))
    ids = ["b"]
    while not ranks.add(NodeId(ids[-1])):
        ids.append(f"{ids[-1]}b")  # always between the last one and "z"
        assert len(ids) < 100
    everyone = [NodeId(name) for name in ("a", *ids, "z")]
    assert sorted(everyone, key=ranks.__getitem__) == sorted(everyone)


def test_forgotten_id_leaves_room() -> None:
    ranks = Ranks()
    for name in ("a", "b", "c"):
        ranks.add(NodeId(name))
    ranks.discard(NodeId("b"))
    ranks.add(NodeId("ab"))
    assert ranks[NodeId("a")] < ranks[NodeId("ab")] < ranks[NodeId("c")]
    with pytest.raises(KeyError):
        ranks[NodeId("b")]


def test_equal_nodes_go_by_id_after_ranks_were_spread_anew() -> None:
    index = RoutingIndex()
    names = ["a", "z", *("b" * length for length in range(60, 0, -1)), *("y" * length for length in range(1, 61))]
    for name in names:
        index.upsert_node(RoutingNode(id=NodeId(name), last_seen_s=0.0))
        index.set_models(NodeId(name), {LLAMA: 1})
    answered = []
    while (chosen := index.route(LLAMA, "", 0.0)) is not None:
        index.acquire(chosen, LLAMA)
        answered.append(chosen)
    assert answered == sorted(names)


def test_place_with_thousands_of_copies_answers_like_a_look_at_all() -> None:
    rng = random.Random(3)
    index = RoutingIndex()
    utilization: dict[NodeId, float] = {}
    for _ in range(6000):
        step = rng.random()
        if step < 0.8 or len(utilization) < 10:
            node_id = NodeId(f"{rng.randrange(4000):04}")
            utilization[node_id] = rng.randrange(1000) / 1000
            index.upsert_node(RoutingNode(id=node_id, last_seen_s=0.0, utilization=utilization[node_id]))
            index.set_models(node_id, {LLAMA: 1})
        else:
            # The best ones go, so that what was least keeps changing.
            gone = index.route(LLAMA, "", 0.0)
            assert gone == min(utilization, key=lambda each: (utilization[each], each))
            index.remove_node(gone)
            del utilization[gone]
    assert len(utilization) > 1024
    while utilization:
        best = index.route(LLAMA, "", 0.0)
        assert best == min(utilization, key=lambda each: (utilization[each], each))
        for node_id in [best, *rng.sample(list(utilization), min(40, len(utilization)))]:
            if utilization.pop(node_id, None) is not None:
                index.remove_node(node_id)
    assert index.route(LLAMA, "", 0.0) is None
