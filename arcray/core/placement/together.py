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
from arcray.core.placement.request import Placement, PlacementRequest
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.resources import MAX_GPUS_PER_NODE, Demand

__all__ = ["Shortfall", "needed_on_one", "place_together"]

_NODES_TRIED: Final = 64  # to pack on one node; more matter only where GPUs are shared


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
    answer = engine.place(whole)
    best: Shortfall | None = None
    for _ in range(_NODES_TRIED):
        if isinstance(answer, Explanation):
            break
        node_id = answer.node_id
        fit = _on_one(engine, requests, order, node_id)
        if not isinstance(fit, Shortfall):
            return fit
        if best is None or fit.placed > best.placed:
            best = fit
        whole = replace(whole, avoid=whole.avoid | {node_id})
        answer = engine.place(whole)
    if best is not None:
        return best
    assert isinstance(answer, Explanation), "a node was tried otherwise"
    return Shortfall(placed=0, index=order[0], explanation=answer)


def _on_one(
    engine: Engine, requests: Sequence[PlacementRequest], order: Sequence[int], node_id: NodeId
) -> tuple[Placement, ...] | Shortfall:
    for index, request in enumerate(requests):
        # The pin below would hide another one.
        if request.node_id not in (None, node_id) or node_id in request.avoid:
            return Shortfall(placed=0, index=index, explanation=engine.explain(request))
    return _each(engine, [replace(request, node_id=node_id) for request in requests], order, apart=False)


def needed_on_one(requests: Sequence[PlacementRequest]) -> PlacementRequest:
    """Returns what a node must at least have to take all requests. Exact unless they share GPUs."""
    demands = [request.demand for request in requests]
    whole = sum(demand.gpus for demand in demands if demand.gpu_memory_bytes is None)
    shared = max((demand for demand in demands if demand.gpu_memory_bytes is not None), key=_shared, default=None)
    gpus, gpu_memory_bytes = whole, None
    if not whole and shared is not None:
        gpus, gpu_memory_bytes = shared.gpus, shared.gpu_memory_bytes
    pins = {request.node_id for request in requests if request.node_id is not None}
    wants = {request.wants for request in requests}
    return PlacementRequest(
        demand=Demand(
            # No node has more than a demand may ask for; where the sum is beyond it, no node passes the exact look.
            cpu_milli=min(MAX_QUANTITY, sum(demand.cpu_milli for demand in demands)),
            memory_bytes=min(MAX_QUANTITY, sum(demand.memory_bytes for demand in demands)),
            disk_bytes=min(MAX_QUANTITY, sum(demand.disk_bytes for demand in demands)),
            gpus=min(MAX_GPUS_PER_NODE, gpus),
            gpu_memory_bytes=gpu_memory_bytes,
        ),
        wants=wants.pop() if len(wants) == 1 else frozenset(),
        selector=tuple(sorted({term for request in requests for term in request.selector}, key=repr)),
        node_id=min(pins) if pins else None,
        avoid=frozenset().union(*(request.avoid for request in requests)),
    )


def _shared(demand: Demand) -> tuple[int, int]:
    return demand.gpu_memory_bytes or 0, demand.gpus


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
