"""Packing: which nodes may take several demands at once, found without trying each.

What lives here: bounds, by one pass over the columns. What does not: whether a node really takes them all
(``together``). The bounds are exact for shares of one size on one GPU each; different ones may pass and not fit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from arcray.core.ids import NodeId
from arcray.core.placement.columns import IDLE, SHARE, Slots
from arcray.core.placement.engine import Engine
from arcray.core.placement.explain import Explanation, FilterRefusal
from arcray.core.placement.filters import needs
from arcray.core.placement.request import PlacementRequest
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.resources import MAX_GPUS_PER_NODE, NO_DEMAND, Demand

__all__ = ["needed_on_one", "nodes_for_all", "places_of", "short_for_all"]

_MOST_BYTES: Final = int(np.iinfo(np.int64).max)  # more than any node has


def needed_on_one(requests: Sequence[PlacementRequest]) -> PlacementRequest:
    """Returns what a node must at least have to take all requests.

    Exact unless they share GPUs, or differ in what they are to be offered or where they are bound to.
    """
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


def places_of(requests: Sequence[PlacementRequest]) -> Collection[PlacementRequest]:
    """Returns the different constraints of requests, whatever they ask for."""
    return {replace(request, demand=NO_DEMAND) for request in requests}


def nodes_for_all(engine: Engine, requests: Sequence[PlacementRequest]) -> list[NodeId]:
    """Returns the nodes that may have room for all requests at once, those with the least room on GPUs first."""
    whole = needed_on_one(requests)
    slots = engine.eligible(whole)
    for place in places_of(requests):
        slots = slots[np.isin(slots, engine.eligible(place), assume_unique=True)]
    rows = engine.columns.rows
    for _, row, least in needs(whole.demand):
        slots = slots[rows[row].take(slots) >= least]
    demands = [request.demand for request in requests]
    slots = slots[rows[IDLE].take(slots) >= sum(each.gpus for each in demands if each.gpu_memory_bytes is None)]
    return [engine.node_at(slot) for slot in _with_shares(engine, demands, slots).tolist()]


def short_for_all(explanation: Explanation, left_out: int) -> Explanation:
    """Returns how requests stand with every node of which some could take each of them, and none takes all.

    Args:
        explanation: how what a node must at least have stands with every node.
        left_out: how many that could take it were not looked at.
    """
    short = explanation.fits - left_out
    refused = [FilterRefusal(filter="together", nodes=short, reason="does not take all of them at once")]
    if left_out:
        refused.append(FilterRefusal(filter="untried", nodes=left_out, reason="may have, and was not looked at"))
    return replace(explanation, fits=0, refusals=(*explanation.refusals, *refused))


def _with_shares(engine: Engine, demands: Sequence[Demand], slots: Slots) -> Slots:
    """Returns the slots that may have room for all shares of GPUs, by how much memory their GPUs have left."""
    shares = [(each.gpu_memory_bytes, each.gpus) for each in demands if each.gpu_memory_bytes is not None]
    left = np.stack([row.take(slots) for row in engine.columns.rows[SHARE:]])
    in_all = left.sum(axis=0)
    if shares:
        wanted_bytes = min(_MOST_BYTES, sum(size * gpus for size, gpus in shares))
        smallest = max(1, min(size for size, _ in shares))
        fits = (in_all >= wanted_bytes) & ((left // smallest).sum(axis=0) >= sum(gpus for _, gpus in shares))
        slots, in_all = slots[fits], in_all[fits]
    ordered: Slots = slots[np.argsort(in_all, kind="stable")]
    return ordered


def _shared(demand: Demand) -> tuple[int, int]:
    return demand.gpu_memory_bytes or 0, demand.gpus
