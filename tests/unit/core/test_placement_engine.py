"""What the placement engine decides: who fits, who is best, what stays true as nodes change."""

from __future__ import annotations

import pytest

from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import NodeId
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Explanation
from arcray.core.placement.request import Free, Placement, PlacementNode, PlacementRequest
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Capacity, Demand, Gpu, GpuShare


def node(
    name: str,
    *,
    cpu: int = 8000,
    memory: int = 32 * GIB,
    disk: int = 0,
    gpus: int = 0,
    features: frozenset[str] = frozenset({"container"}),
    labels: dict[str, str] | None = None,
    schedulable: bool = True,
    max_held: int | None = None,
) -> PlacementNode:
    devices = tuple(Gpu(index=index, memory_bytes=80 * GIB) for index in range(gpus))
    return PlacementNode(
        id=NodeId(name),
        capacity=Capacity(cpu_milli=cpu, memory_bytes=memory, disk_bytes=disk, gpus=devices),
        features=features,
        labels=labels or {},
        schedulable=schedulable,
        max_held=max_held,
    )


def engine_of(*nodes: PlacementNode) -> Engine:
    engine = Engine()
    for each in nodes:
        engine.upsert(each)
    return engine


def chosen(engine: Engine, request: PlacementRequest) -> str:
    answer = engine.place(request)
    assert isinstance(answer, Placement), answer.sentence()
    return answer.node_id


def taken(engine: Engine, demand: Demand) -> Placement:
    answer = engine.place(PlacementRequest(demand=demand))
    assert isinstance(answer, Placement), answer.sentence()
    engine.allocate(answer.node_id, answer.allocation)
    return answer


def refused(engine: Engine, request: PlacementRequest) -> dict[str, int]:
    answer = engine.place(request)
    assert isinstance(answer, Explanation), answer
    return {refusal.filter: refusal.nodes for refusal in answer.refusals}


def test_four_gpus_go_to_the_node_with_four_and_not_to_the_one_with_eight() -> None:
    engine = engine_of(node("eight", gpus=8), node("four", gpus=4))
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=4))) == "four"


def test_work_without_gpus_stays_off_gpu_nodes_even_when_they_are_fuller() -> None:
    engine = engine_of(node("a-gpu", gpus=1, cpu=1000), node("b-plain", cpu=64_000))
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=1000))) == "b-plain"


def test_work_without_gpus_prefers_no_gpus_to_gpus_that_are_all_taken() -> None:
    engine = engine_of(node("a-gpu", gpus=1, cpu=1000), node("b-plain", cpu=64_000))
    taken(engine, Demand(gpus=1))
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=1000))) == "b-plain"


def test_fullest_node_that_fits_is_taken() -> None:
    engine = engine_of(node("empty", cpu=16_000), node("tight", cpu=4000), node("too-small", cpu=1000))
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=2000))) == "tight"


def test_share_goes_to_the_node_with_a_shared_gpu_before_it_breaks_an_idle_one() -> None:
    engine = engine_of(node("one-idle", gpus=1), node("shared", gpus=4))
    share = GpuShare(index=0, memory_bytes=60 * GIB, whole=False)
    engine.allocate(NodeId("shared"), Allocation(gpus=(share,)))
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=1, gpu_memory_bytes=20 * GIB))) == "shared"
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=1, gpu_memory_bytes=21 * GIB))) == "one-idle"


def test_equal_nodes_are_told_apart_by_id() -> None:
    engine = engine_of(node("b"), node("c"), node("a"))
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=1))) == "a"


def test_placing_holds_nothing_until_it_is_allocated() -> None:
    engine = engine_of(node("a"))
    before = engine.free(NodeId("a"))
    engine.place(PlacementRequest(demand=Demand(cpu_milli=8000)))
    assert engine.free(NodeId("a")) == before
    taken(engine, Demand(cpu_milli=8000))
    assert engine.free(NodeId("a")) == Free(cpu_milli=0, memory_bytes=32 * GIB, disk_bytes=0, gpus=0)


def test_allocation_is_exactly_the_demand_on_the_lowest_devices() -> None:
    engine = engine_of(node("a", gpus=4, disk=10 * GIB))
    taken(engine, Demand(gpus=1))
    placed = taken(engine, Demand(cpu_milli=500, memory_bytes=GIB, disk_bytes=2 * GIB, gpus=2))
    assert placed.allocation == Allocation(
        cpu_milli=500,
        memory_bytes=GIB,
        disk_bytes=2 * GIB,
        gpus=(
            GpuShare(index=1, memory_bytes=80 * GIB, whole=True),
            GpuShare(index=2, memory_bytes=80 * GIB, whole=True),
        ),
    )


def test_release_gives_back_what_was_allocated() -> None:
    engine = engine_of(node("a", gpus=2))
    before = engine.free(NodeId("a"))
    placed = [taken(engine, Demand(cpu_milli=500, gpus=1)), taken(engine, Demand(gpus=1, gpu_memory_bytes=GIB))]
    for placement in placed:
        engine.release(placement.node_id, placement.allocation)
    assert engine.free(NodeId("a")) == before
    assert taken(engine, Demand(gpus=2)).node_id == "a"


def test_unschedulable_node_takes_nothing_and_keeps_its_books() -> None:
    engine = engine_of(node("a"))
    placed = taken(engine, Demand(cpu_milli=1000))
    engine.upsert(node("a", schedulable=False))
    assert refused(engine, PlacementRequest()) == {"schedulable": 1}
    engine.release(placed.node_id, placed.allocation)
    engine.upsert(node("a"))
    assert engine.free(NodeId("a")).cpu_milli == 8000
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=8000))) == "a"


def test_pinned_request_goes_nowhere_else() -> None:
    engine = engine_of(node("a", cpu=1000), node("b"))
    assert chosen(engine, PlacementRequest(node_id=NodeId("b"))) == "b"
    pinned = PlacementRequest(demand=Demand(cpu_milli=2000), node_id=NodeId("a"))
    assert refused(engine, pinned) == {"pinned": 1, "cpu": 1}
    assert refused(engine, PlacementRequest(node_id=NodeId("nobody"))) == {"pinned": 2}


def test_avoided_nodes_are_passed_over() -> None:
    engine = engine_of(node("a"), node("b"), node("c"))
    assert chosen(engine, PlacementRequest(avoid=frozenset({NodeId("a"), NodeId("b")}))) == "c"
    everyone = frozenset(NodeId(name) for name in "abc")
    assert refused(engine, PlacementRequest(avoid=everyone)) == {"avoided": 3}


def test_one_wanted_feature_is_enough_and_no_wish_is_none() -> None:
    engine = engine_of(
        node("a-program", features=frozenset({"program"})),
        node("b-runner", features=frozenset({"program-in-container"})),
    )
    wants = frozenset({"program-in-container", "container"})
    assert chosen(engine, PlacementRequest(wants=wants)) == "b-runner"
    assert chosen(engine, PlacementRequest()) == "a-program"
    assert refused(engine, PlacementRequest(wants=frozenset({"model:onnx"}))) == {"features": 2}


def test_all_labels_of_a_selector_must_match() -> None:
    engine = engine_of(node("a", labels={"zone": "eu"}), node("b", labels={"zone": "eu", "disk": "fast"}))
    assert chosen(engine, PlacementRequest(selector=(("zone", "eu"), ("disk", "fast")))) == "b"
    assert refused(engine, PlacementRequest(selector=(("zone", "us"),))) == {"selector": 2}


def test_changed_labels_and_features_count_from_the_next_request_on() -> None:
    engine = engine_of(node("a", labels={"zone": "eu"}), node("b"))
    in_eu = PlacementRequest(selector=(("zone", "eu"),))
    with_models = PlacementRequest(wants=frozenset({"model:onnx"}))
    assert chosen(engine, in_eu) == "a"
    assert refused(engine, with_models) == {"features": 2}
    engine.upsert(node("a"))
    engine.upsert(node("b", labels={"zone": "eu"}, features=frozenset({"model:onnx"})))
    assert chosen(engine, in_eu) == "b"
    assert chosen(engine, with_models) == "b"


def test_scope_that_everyone_was_in_notices_who_joins_and_leaves() -> None:
    engine = engine_of(*(node(f"c{number}") for number in range(10)))
    wants = PlacementRequest(wants=frozenset({"container"}))
    assert chosen(engine, wants) == "c0"
    engine.upsert(node("a-program", features=frozenset({"program"})))
    assert chosen(engine, wants) == "c0", "one who does not belong has joined"
    engine.remove(NodeId("c9"))
    assert chosen(engine, wants) == "c0", "as many belong as before it joined, but not everyone"
    engine.upsert(node("b-container"))
    assert chosen(engine, wants) == "b-container", "one who belongs has joined"


def test_more_scopes_than_marks_are_all_served() -> None:
    nodes = [node(f"n{number:03}", labels={f"k{key}": str(number % 2) for key in range(80)}) for number in range(40)]
    engine = engine_of(*nodes)
    for _ in range(2):
        for key in range(80):
            assert chosen(engine, PlacementRequest(selector=((f"k{key}", "1"),))) == "n001"


def test_shrunken_node_goes_negative_and_takes_nothing_until_it_is_even() -> None:
    engine = engine_of(node("a", cpu=8000))
    placed = taken(engine, Demand(cpu_milli=6000))
    engine.upsert(node("a", cpu=4000))
    assert engine.free(NodeId("a")).cpu_milli == -2000
    assert refused(engine, PlacementRequest()) == {"cpu": 1}
    engine.release(placed.node_id, placed.allocation)
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=4000))) == "a"


def test_node_that_lost_gpus_in_use_takes_nothing_until_they_are_released() -> None:
    engine = engine_of(node("a", gpus=4))
    placed = taken(engine, Demand(gpus=4))
    engine.upsert(node("a", gpus=3))
    assert engine.free(NodeId("a")).gpus == -1
    assert refused(engine, PlacementRequest(demand=Demand(cpu_milli=1))) == {"gpus": 1}
    engine.release(placed.node_id, placed.allocation)
    assert engine.free(NodeId("a")).gpus == 3
    assert refused(engine, PlacementRequest(demand=Demand(gpus=4))) == {"gpus": 1}
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=3))) == "a"


def test_removed_node_is_forgotten_with_what_it_held() -> None:
    engine = engine_of(node("a"), node("b"))
    taken(engine, Demand(cpu_milli=1000))
    engine.remove(NodeId("a"))
    engine.remove(NodeId("a"))
    assert (len(engine), NodeId("a") in engine, NodeId("b") in engine) == (1, False, True)
    engine.upsert(node("a"))
    assert engine.free(NodeId("a")).cpu_milli == 8000


def test_unknown_node_is_not_found() -> None:
    engine = engine_of(node("a"))
    with pytest.raises(NotFoundError):
        engine.allocate(NodeId("b"), Allocation())
    with pytest.raises(NotFoundError):
        engine.release(NodeId("b"), Allocation())
    with pytest.raises(NotFoundError):
        engine.free(NodeId("b"))


def test_impossible_capacity_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgumentError, match=r"capacity\.memory"):
        node("a", memory=1 << 60)


def test_nodes_with_more_gpus_than_any_before_are_placed_on() -> None:
    engine = engine_of(*(node(f"small{number}", gpus=2) for number in range(3)), node("large", gpus=16))
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=16))) == "large"
    assert chosen(engine, PlacementRequest(demand=Demand(gpus=12, gpu_memory_bytes=GIB))) == "large"
    assert refused(engine, PlacementRequest(demand=Demand(gpus=64, gpu_memory_bytes=GIB))) == {"gpus": 4}


def test_node_that_has_as_many_as_it_takes_is_full_until_one_has_ended() -> None:
    engine = engine_of(node("a", max_held=2))
    first = taken(engine, Demand(cpu_milli=1))
    taken(engine, Demand())
    assert refused(engine, PlacementRequest(demand=Demand())) == {"full": 1}
    engine.release(first.node_id, first.allocation)
    assert chosen(engine, PlacementRequest(demand=Demand())) == "a"


def test_node_that_takes_none_is_full_from_the_beginning_and_says_so() -> None:
    answer = engine_of(node("a", max_held=0)).place(PlacementRequest(demand=Demand()))
    assert isinstance(answer, Explanation)
    assert answer.sentence() == "0 of 1 nodes can take it: 1 by full (has as many workloads as it takes)"


def test_full_node_is_passed_over_for_one_that_is_not() -> None:
    engine = engine_of(node("a", cpu=1000, max_held=1), node("b", cpu=64_000))
    assert taken(engine, Demand(cpu_milli=100)).node_id == "a"
    assert chosen(engine, PlacementRequest(demand=Demand(cpu_milli=100))) == "b"


def test_bound_of_a_node_may_change_while_it_holds_work() -> None:
    engine = engine_of(node("a", max_held=1))
    taken(engine, Demand())
    engine.upsert(node("a", max_held=2))
    taken(engine, Demand())
    engine.upsert(node("a", max_held=1))
    assert refused(engine, PlacementRequest(demand=Demand())) == {"full": 1}


def test_full_node_could_take_what_it_would_have_room_for() -> None:
    engine = engine_of(node("a", max_held=1))
    held = taken(engine, Demand())
    books = engine.books(held.node_id)
    assert engine.admits(held.node_id, PlacementRequest(demand=Demand()))
    assert books.fit(Demand()) is None
    books.give_back(held.allocation)
    assert books.fit(Demand()) == held.allocation
