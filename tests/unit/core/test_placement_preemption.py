"""Where work is to be ended among many nodes that look alike by what is held on them."""

from __future__ import annotations

import pytest

from arcray.core.ids import WorkloadId
from arcray.core.placement.engine import Engine
from arcray.core.placement.preemption import Reclaimable, Victim
from arcray.core.placement.request import PlacementNode, PlacementRequest
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.turns import SearchTurns
from arcray.testing.builders import a_capacity, node_id

HIGH, LOW = 1, 3


def shared(size_gib: int) -> Allocation:
    return Allocation(gpus=(GpuShare(index=0, memory_bytes=size_gib * GIB, whole=False),))


def nodes_that_share_a_gpu(count: int) -> tuple[Engine, Reclaimable]:
    """On each node work that stays holds 60 GiB of 80 beside 10 that may end; on the last one it is the other way."""
    engine, reclaimable = Engine(), Reclaimable([LOW])
    for number in range(1, count + 1):
        node = node_id(number)
        engine.upsert(PlacementNode(id=node, capacity=a_capacity(gpus=1)))
        stays, ends = (10, 60) if number == count else (60, 10)
        engine.allocate(node, shared(stays))
        engine.allocate(node, shared(ends))
        victim = Victim(id=WorkloadId(f"v{number}"), priority=LOW, allocation=shared(ends), since_s=0.0)
        reclaimable.add(engine.slot(node), victim)
    return engine, reclaimable


@pytest.mark.parametrize("count", [10, 100, 500])
def test_the_one_node_is_found_whose_gpu_has_room_afterwards(count: int) -> None:
    engine, reclaimable = nodes_that_share_a_gpu(count)
    request = PlacementRequest(demand=Demand(gpus=1, gpu_memory_bytes=50 * GIB))
    found = reclaimable.choose(engine, request, HIGH, 0.0)
    assert found is not None
    assert (found.node_id, found.victims) == (node_id(count), (f"v{count}",))


def test_a_whole_gpu_that_is_shared_with_what_stays_is_not_counted_on() -> None:
    engine, reclaimable = nodes_that_share_a_gpu(100)
    engine.release(node_id(100), shared(10))
    found = reclaimable.choose(engine, PlacementRequest(demand=Demand(gpus=1)), HIGH, 0.0)
    assert found is not None
    assert found.node_id == node_id(100)
    engine.allocate(node_id(100), shared(10))
    assert reclaimable.choose(engine, PlacementRequest(demand=Demand(gpus=1)), HIGH, 0.0) is None


def test_a_search_that_cannot_look_at_all_nodes_is_gone_on_with() -> None:
    engine, reclaimable = nodes_that_share_a_gpu(1_200)
    request = PlacementRequest(demand=Demand(gpus=1, gpu_memory_bytes=50 * GIB))
    searches = 0
    found = None
    while found is None:
        found = reclaimable.choose(engine, request, HIGH, 0.0)
        searches += 1
        assert found is not None or reclaimable.unfinished
    assert (found.node_id, searches) == (node_id(1_200), 3)
    engine.release(node_id(1_200), shared(10))
    engine.allocate(node_id(1_200), shared(20))
    assert reclaimable.choose(engine, request, HIGH, 0.0) is not None
    assert not reclaimable.unfinished, "only what changed is looked at again"


def test_who_has_not_finished_searches_again_in_the_same_situation() -> None:
    turns = SearchTurns()
    for expected in (True, True, False):
        turns.begin(8, 1)
        turns.begin_pass()
        assert turns.take(WorkloadId("w")) is expected
        if expected and turns.take(WorkloadId("other")):
            turns.not_finished(WorkloadId("w"))
