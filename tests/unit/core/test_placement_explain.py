"""Explanations: every node is counted once, and the advice is the smallest change that works."""

from __future__ import annotations

import pytest

from arcray.core.ids import NodeId
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Explanation
from arcray.core.placement.request import Placement, PlacementNode, PlacementRequest
from arcray.core.quantity import GIB, MIB
from arcray.core.resources import Allocation, Capacity, Demand, Gpu


def pool(**nodes: Capacity) -> Engine:
    engine = Engine()
    for name, capacity in nodes.items():
        engine.upsert(PlacementNode(id=NodeId(name), capacity=capacity, features=frozenset({"container"})))
    return engine


def machine(cpu: int = 8000, memory: int = 8 * GIB, disk: int = 0, gpus: int = 0) -> Capacity:
    devices = tuple(Gpu(index=index, memory_bytes=40 * GIB) for index in range(gpus))
    return Capacity(cpu_milli=cpu, memory_bytes=memory, disk_bytes=disk, gpus=devices)


def why(engine: Engine, request: PlacementRequest) -> Explanation:
    answer = engine.place(request)
    assert isinstance(answer, Explanation)
    assert sum(refusal.nodes for refusal in answer.refusals) == answer.nodes == len(engine)
    return answer


def asking(**demand: int) -> PlacementRequest:
    return PlacementRequest(demand=Demand(**demand))


def test_empty_pool_says_so() -> None:
    assert why(pool(), asking(cpu_milli=1)).sentence() == "the pool has no nodes"


def test_each_node_counts_for_the_first_filter_that_refuses_it() -> None:
    engine = pool(slow=machine(cpu=1000, memory=GIB), small=machine(memory=GIB), plain=machine())
    engine.upsert(PlacementNode(id=NodeId("closed"), capacity=machine(cpu=1), schedulable=False))
    request = PlacementRequest(
        demand=Demand(cpu_milli=2000, memory_bytes=4 * GIB, gpus=2), wants=frozenset({"container"})
    )
    assert [(refusal.filter, refusal.nodes, refusal.reason) for refusal in why(engine, request).refusals] == [
        ("schedulable", 1, "is cordoned or draining"),
        ("cpu", 1, "needs 2 free cores"),
        ("memory", 1, "needs 4096 MiB free memory"),
        ("gpus", 1, "needs 2 free GPUs"),
    ]


def test_sentence_tells_everything() -> None:
    sentence = why(pool(a=machine(), b=machine()), asking(memory_bytes=9 * GIB)).sentence()
    assert sentence == (
        "0 of 2 nodes can take it: 2 by memory (needs 9216 MiB free memory); 1024 MiB less memory would fit"
    )


@pytest.mark.parametrize(
    ("demand", "advice"),
    [
        (Demand(memory_bytes=9 * GIB), "1024 MiB less memory would fit"),
        (Demand(memory_bytes=8 * GIB + 1), "1 MiB less memory would fit"),
        (Demand(cpu_milli=8500), "0.5 cores less would fit"),
        (Demand(disk_bytes=3 * GIB), "1024 MiB less disk would fit"),
        (Demand(gpus=3), "1 GPU less would fit"),
        (Demand(gpus=4), "2 GPUs less would fit"),
        (Demand(gpus=1, gpu_memory_bytes=41 * GIB), "1024 MiB less memory on each GPU would fit"),
        (Demand(gpus=3, gpu_memory_bytes=GIB), "1 GPU less would fit"),
        (Demand(cpu_milli=9000, memory_bytes=9 * GIB), ""),
    ],
)
def test_smallest_reduction_is_advised(demand: Demand, advice: str) -> None:
    engine = pool(big=machine(disk=2 * GIB, gpus=2), small=machine(cpu=100, memory=MIB))
    assert why(engine, PlacementRequest(demand=demand)).suggestion == advice


def test_smaller_of_two_reductions_is_advised() -> None:
    engine = pool(slow=machine(cpu=3000, memory=8 * GIB), small=machine(cpu=4000, memory=7 * GIB))
    assert why(engine, asking(cpu_milli=4000, memory_bytes=8 * GIB)).suggestion == "1024 MiB less memory would fit"
    engine = pool(slow=machine(cpu=3900, memory=8 * GIB), small=machine(cpu=4000, memory=7 * GIB))
    assert why(engine, asking(cpu_milli=4000, memory_bytes=8 * GIB)).suggestion == "0.1 cores less would fit"


def test_freeing_gpus_is_advised_where_the_node_has_enough_but_none_idle() -> None:
    engine = pool(a=machine(gpus=2), b=machine(gpus=1))
    for _ in range(3):
        answer = engine.place(asking(gpus=1))
        assert isinstance(answer, Placement)
        engine.allocate(answer.node_id, answer.allocation)
    assert why(engine, asking(gpus=1)).suggestion == "free 1 GPU on one node"
    assert why(engine, asking(gpus=2)).suggestion == "free 2 GPUs on one node"
    assert why(engine, asking(gpus=3)).suggestion == ""


def test_freeing_gpus_is_not_advised_for_shares_that_they_may_be_too_small_for() -> None:
    engine = pool(a=machine(gpus=2))
    answer = engine.place(asking(gpus=2))
    assert isinstance(answer, Placement)
    engine.allocate(answer.node_id, answer.allocation)
    assert why(engine, asking(gpus=1, gpu_memory_bytes=41 * GIB)).suggestion == ""


def test_following_the_advice_places_the_work() -> None:
    engine = pool(a=machine(memory=7 * GIB), b=machine(cpu=4000))
    assert why(engine, asking(cpu_milli=5000, memory_bytes=8 * GIB)).suggestion == "1024 MiB less memory would fit"
    assert isinstance(engine.place(asking(cpu_milli=5000, memory_bytes=7 * GIB)), Placement)


def test_uncordoning_is_advised_before_giving_up_more_than_half() -> None:
    engine = pool(small=machine(memory=3 * GIB))
    engine.upsert(PlacementNode(id=NodeId("closed"), capacity=machine(), schedulable=False))
    assert why(engine, asking(memory_bytes=8 * GIB)).suggestion == "uncordon node closed"
    assert why(engine, asking(memory_bytes=4 * GIB)).suggestion == "1024 MiB less memory would fit"
    engine.upsert(PlacementNode(id=NodeId("closed-too"), capacity=machine(), schedulable=False))
    assert why(engine, asking(memory_bytes=8 * GIB)).suggestion == "uncordon one of 2 nodes"


def test_conditions_that_alone_stand_in_the_way_are_named() -> None:
    engine = pool(a=machine(), b=machine())
    assert why(engine, PlacementRequest(node_id=NodeId("c"))).suggestion == "without the pin 2 nodes would fit"
    avoid = frozenset({NodeId("a"), NodeId("b")})
    assert why(engine, PlacementRequest(avoid=avoid)).suggestion == "without the exclusion 2 nodes would fit"
    selector = (("zone", "eu"),)
    assert why(engine, PlacementRequest(selector=selector)).suggestion == "without the selector 2 nodes would fit"
    assert why(engine, PlacementRequest(wants=frozenset({"model:onnx"}))).suggestion == ""


def test_equal_refusals_share_one_explanation_until_a_node_changes() -> None:
    engine = pool(a=machine(), b=machine())
    first = why(engine, asking(memory_bytes=9 * GIB))
    assert why(engine, asking(memory_bytes=9 * GIB)) is first
    engine.allocate(NodeId("b"), Allocation(memory_bytes=4 * GIB))
    engine.allocate(NodeId("a"), Allocation(memory_bytes=2 * GIB))
    assert why(engine, asking(memory_bytes=9 * GIB)).suggestion == "3072 MiB less memory would fit"


def test_remembered_refusal_ends_when_something_fits() -> None:
    engine = pool(a=machine())
    engine.allocate(NodeId("a"), Allocation(memory_bytes=GIB))
    why(engine, asking(memory_bytes=8 * GIB))
    engine.release(NodeId("a"), Allocation(memory_bytes=GIB))
    assert isinstance(engine.place(asking(memory_bytes=8 * GIB)), Placement)


def test_remembered_refusal_counts_nodes_that_joined_and_left() -> None:
    engine = pool(a=machine(), b=machine(), c=machine())
    why(engine, asking(memory_bytes=9 * GIB))
    engine.remove(NodeId("b"))
    assert why(engine, asking(memory_bytes=9 * GIB)).nodes == 2
    engine.upsert(PlacementNode(id=NodeId("d"), capacity=machine(), schedulable=False))
    assert why(engine, asking(memory_bytes=9 * GIB)).nodes == 3
    engine.upsert(PlacementNode(id=NodeId("e"), capacity=machine(memory=9 * GIB)))
    assert isinstance(engine.place(asking(memory_bytes=9 * GIB)), Placement)


def test_explaining_what_fits_counts_the_nodes_that_would_take_it() -> None:
    engine = pool(a=machine(), b=machine(cpu=1000))
    explanation = engine.explain(asking(cpu_milli=2000))
    assert (explanation.nodes, explanation.fits, explanation.suggestion) == (2, 1, "")
    assert explanation.sentence() == "1 of 2 nodes can take it: refused 1 by cpu (needs 2 free cores)"
    assert engine.explain(asking()).sentence() == "2 of 2 nodes can take it"
