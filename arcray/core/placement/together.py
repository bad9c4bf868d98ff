"""Placing together: several demands at the same time, or none of them.

Each demand is placed and held before the next one is looked at, so the answer is one that can be held as it stands; at
the end everything is taken off again, and the engine is as it was. The order is the one that loses least room: the
demands with the fewest places first (pinned, then those with a selector), then the largest, then as given.

Demands that are all equal are placed whenever that is possible at all. Of different ones a fit may be missed that would
take looking ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from arcray.core.gang import Layout
from arcray.core.ids import NodeId
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Explanation
from arcray.core.placement.packing import needed_on_one, nodes_for_all, places_of, short_for_all
from arcray.core.placement.request import Placement, PlacementRequest

__all__ = ["Shortfall", "place_together"]

_NODES_TRIED: Final = 64  # of those that pass the bounds, which are exact unless shares of GPUs differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Why demands cannot be placed together now.

    Args:
        placed: how many got a place before the one that did not.
        index: the one that did not.
        explanation: how that one stands with every node, beside those placed before it.
    """

    placed: int
    index: int
    explanation: Explanation


def place_together(
    engine: Engine, requests: Sequence[PlacementRequest], layout: Layout
) -> tuple[Placement, ...] | Shortfall:
    """Returns one placement for each request, which can all be allocated as they are, or why not. Holds nothing."""
    order = sorted(range(len(requests)), key=lambda index: _hardest_first(requests[index], index))
    if layout is Layout.PACK and len(requests) > 1:
        return _packed(engine, requests, order)
    return _each(engine, requests, order, apart=layout is Layout.SPREAD)


def _each(
    engine: Engine, requests: Sequence[PlacementRequest], order: Sequence[int], *, apart: bool
) -> tuple[Placement, ...] | Shortfall:
    placed: dict[int, Placement] = {}
    used: frozenset[NodeId] = frozenset()
    try:
        for index in order:
            request = requests[index]
            answer = engine.place(replace(request, avoid=request.avoid | used) if used else request)
            if isinstance(answer, Explanation):
                return Shortfall(placed=len(placed), index=index, explanation=answer)
            engine.allocate(answer.node_id, answer.allocation)
            placed[index] = answer
            if apart:
                used |= {answer.node_id}
    finally:
        for held in reversed(placed.values()):
            engine.release(held.node_id, held.allocation)
    return tuple(placed[index] for index in range(len(requests)))


def _packed(
    engine: Engine, requests: Sequence[PlacementRequest], order: Sequence[int]
) -> tuple[Placement, ...] | Shortfall:
    whole = needed_on_one(requests)
    best = engine.place(whole)
    if isinstance(best, Explanation):
        return Shortfall(placed=0, index=order[0], explanation=best)
    found = _on_one(engine, requests, order, best.node_id)
    if found is not None:
        return found
    candidates = nodes_for_all(engine, requests)
    left_out = max(0, len(candidates) - _NODES_TRIED)
    half = _NODES_TRIED // 2  # the tightest waste least, the roomiest are the likeliest
    for node_id in (*candidates[:half], *candidates[half:][-half:]) if left_out else candidates:
        found = _on_one(engine, requests, order, node_id)
        if found is not None:
            return found
    explanation = short_for_all(engine.explain(whole), left_out)
    return Shortfall(placed=0, index=order[0], explanation=explanation)


def _on_one(
    engine: Engine, requests: Sequence[PlacementRequest], order: Sequence[int], node_id: NodeId
) -> tuple[Placement, ...] | None:
    if not all(engine.admits(node_id, place) for place in places_of(requests)):
        return None
    books = engine.books(node_id)
    placed: dict[int, Placement] = {}
    for index in order:
        allocation = books.fit(requests[index].demand)
        if allocation is None:
            return None
        books.take(allocation)
        placed[index] = Placement(node_id=node_id, allocation=allocation)
    return tuple(placed[index] for index in range(len(requests)))


def _hardest_first(request: PlacementRequest, index: int) -> tuple[bool, bool, int, int, int, int, int]:
    demand = request.demand
    return (
        request.node_id is None,
        not request.selector,
        -demand.gpus,
        -(demand.gpu_memory_bytes or 0),
        -demand.cpu_milli,
        -demand.memory_bytes,
        index,
    )
