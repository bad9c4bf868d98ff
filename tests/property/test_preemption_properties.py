"""The choice of victims against the obvious search, and what is kept for a preemptor against the books."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.claim import kept_free
from arcray.core.gang import Layout
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.placement.books import Books
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Explanation
from arcray.core.placement.preemption import Reclaimable, Victim
from arcray.core.placement.request import Placement, PlacementNode, PlacementRequest
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.resources import Capacity, Demand, Gpu

LEVELS = [1, 2]
NOW_S = 1_000.0


@dataclass
class Pool:
    engine: Engine
    reclaimable: Reclaimable
    victims: dict[NodeId, list[Victim]]


demands = st.one_of(
    st.builds(Demand, cpu_milli=st.integers(0, 4000), gpus=st.integers(0, 3)),
    st.builds(
        Demand, cpu_milli=st.integers(0, 2000), gpus=st.integers(1, 2), gpu_memory_bytes=st.sampled_from([3, 5, 10])
    ),
)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """A pool that is filled with work, some of which may be ended."""
    engine, reclaimable = Engine(), Reclaimable(LEVELS)
    victims: dict[NodeId, list[Victim]] = {}
    for number in range(draw(st.integers(1, 4))):
        gpus = tuple(Gpu(index=index, memory_bytes=10) for index in range(draw(st.integers(0, 3))))
        capacity = Capacity(cpu_milli=draw(st.sampled_from([2000, 4000])), memory_bytes=0, gpus=gpus)
        node_id = NodeId(f"n{number}")
        engine.upsert(
            PlacementNode(id=node_id, capacity=capacity, schedulable=draw(st.sampled_from([True, True, False])))
        )
        victims[node_id] = []
    for number in range(draw(st.integers(0, 14))):
        placement = engine.place(PlacementRequest(demand=draw(demands)))
        if isinstance(placement, Explanation):
            continue
        engine.allocate(placement.node_id, placement.allocation)
        if draw(st.booleans()):
            victim = Victim(
                id=WorkloadId(f"w{number:02}"),
                priority=draw(st.sampled_from(LEVELS)),
                allocation=placement.allocation,
                since_s=draw(st.sampled_from([0.0, 10.0, 20.0])),
            )
            reclaimable.add(engine.slot(placement.node_id), victim)
            victims[placement.node_id].append(victim)
    return Pool(engine, reclaimable, victims)


def without(pool: Pool, node_id: NodeId, victims: list[Victim]) -> Books:
    books = pool.engine.books(node_id)
    for victim in victims:
        books.give_back(victim.allocation)
    return books


@settings(max_examples=400, deadline=None)
@given(pool=pools(), demand=demands, priority=st.sampled_from([0, 1, 2]))
def test_the_choice_is_minimal_allowed_and_found_whenever_there_is_one(
    pool: Pool, demand: Demand, priority: int
) -> None:
    request = PlacementRequest(demand=demand)
    if isinstance(pool.engine.place(request), Placement):
        return
    found = pool.reclaimable.choose(pool.engine, request, priority, NOW_S)

    def helps(level: int) -> bool:
        return any(
            without(pool, node_id, [v for v in victims if v.priority >= level]).fit(demand) is not None
            for node_id, victims in pool.victims.items()
            if pool.engine.admits(node_id, request) and any(v.priority >= level for v in victims)
        )

    possible = [level for level in LEVELS if level > priority and helps(level)]
    assert (found is not None) == bool(possible)
    if found is None:
        return
    chosen = [v for v in pool.victims[found.node_id] if v.id in found.victims]
    assert len(chosen) == len(found.victims) > 0
    assert all(victim.priority >= max(possible) for victim in chosen), "the lowest priority that suffices"
    assert without(pool, found.node_id, chosen).fit(demand) == found.allocation
    for spared in chosen:
        fewer = [victim for victim in chosen if victim is not spared]
        assert without(pool, found.node_id, fewer).fit(demand) is None, "one of the victims could have been spared"
    single = any(
        without(pool, node_id, [victim]).fit(demand) is not None
        for node_id, victims in pool.victims.items()
        if pool.engine.admits(node_id, request)
        for victim in victims
        if victim.priority >= max(possible)
    )
    # Fewer of the higher of two priorities go before fewer at all.
    assert not single or len(chosen) == 1 or max(possible) < max(LEVELS)


@settings(max_examples=300, deadline=None)
@given(pool=pools(), demand=demands, order=st.randoms(use_true_random=False))
def test_what_is_kept_never_overcommits_and_ends_as_what_was_wanted(pool: Pool, demand: Demand, order: object) -> None:
    request = PlacementRequest(demand=demand)
    if isinstance(pool.engine.place(request), Placement):
        return
    found = pool.reclaimable.choose(pool.engine, request, 0, NOW_S)
    if found is None:
        return
    engine, node_id = pool.engine, found.node_id
    held = {v.id: v.allocation for v in pool.victims[node_id] if v.id in found.victims}
    kept = kept_free(found.allocation, held.values())
    engine.allocate(node_id, kept)
    ending = sorted(held)
    order.shuffle(ending)  # type: ignore[attr-defined]  # hypothesis draws a random.Random
    for victim_id in ending:
        free = engine.free(node_id)
        assert min(free.cpu_milli, free.memory_bytes, free.gpus) >= 0
        engine.release(node_id, held.pop(victim_id))
        engine.release(node_id, kept)
        kept = kept_free(found.allocation, held.values())
        engine.allocate(node_id, kept)
    assert kept == found.allocation
    free = engine.free(node_id)
    assert min(free.cpu_milli, free.memory_bytes, free.gpus) >= 0


@settings(max_examples=300, deadline=None)
@given(pool=pools(), wanted=st.lists(demands, min_size=1, max_size=5), layout=st.sampled_from(Layout))
def test_what_is_placed_together_can_be_held_together_and_nothing_is_held_after(
    pool: Pool, wanted: list[Demand], layout: Layout
) -> None:
    engine = pool.engine
    before = {node_id: engine.free(node_id) for node_id in pool.victims}
    found = place_together(engine, [PlacementRequest(demand=demand) for demand in wanted], layout)
    assert {node_id: engine.free(node_id) for node_id in pool.victims} == before
    if isinstance(found, Shortfall):
        assert 0 <= found.placed < len(wanted)
        return
    for demand, placement in zip(wanted, found, strict=True):
        assert placement.allocation.cpu_milli == demand.cpu_milli
        assert len(placement.allocation.gpus) == demand.gpus
        engine.allocate(placement.node_id, placement.allocation)
    nodes = [placement.node_id for placement in found]
    assert layout is not Layout.PACK or len(set(nodes)) == 1
    assert layout is not Layout.SPREAD or len(set(nodes)) == len(nodes)
    for node_id in nodes:
        free = engine.free(node_id)
        assert min(free.cpu_milli, free.memory_bytes, free.gpus) >= 0


@settings(max_examples=200, deadline=None)
@given(pool=pools(), demand=demands, count=st.integers(1, 6))
def test_equal_demands_are_placed_together_whenever_that_is_possible(pool: Pool, demand: Demand, count: int) -> None:
    """How many fit on a node does not depend on the other nodes, so the sum over nodes is the most there is."""
    request = PlacementRequest(demand=demand)
    room = 0
    for node_id in pool.victims:
        books = pool.engine.books(node_id)
        while room < count and pool.engine.admits(node_id, request) and (fit := books.fit(demand)) is not None:
            books.take(fit)
            room += 1
    placed = place_together(pool.engine, [request] * count, Layout.ANY)
    assert isinstance(placed, Shortfall) == (room < count)
