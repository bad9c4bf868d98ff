"""Which nodes a gang could use if nothing else ran on them, and on which of these it is tried.

What lives here: nodes by what they have, whatever runs there. What does not: whether the members fit together on them
(``placement/together``), and what follows from that (``handlers/gangs``).

Cost: nodes are told apart by what they have, of which there are few kinds, so that a gang of many different members
costs a look at each node for each set of constraints, and one at each kind for each demand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from operator import itemgetter
from typing import Final, TypeAlias

from arcray.core.asked import placement_node
from arcray.core.gang import Layout
from arcray.core.ids import NodeId
from arcray.core.placement.engine import Engine
from arcray.core.placement.packing import needed_on_one
from arcray.core.placement.request import PlacementRequest
from arcray.core.resources import NO_DEMAND, Capacity, Demand
from arcray.core.state import ClusterState

__all__ = ["empty_engine", "usable_nodes"]

_NODES_TRIED: Final = 1_024  # largest ones, beside those that a member needs

_Kind: TypeAlias = tuple[Capacity, frozenset[int]]  # what a node has, and which of its devices are closed


class _Kinds:
    """Nodes by what they have."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._kind_of: dict[int, _Kind] = {}  # by slot, because comparing capacities costs more than finding a slot
        self._same: dict[_Kind, _Kind] = {}

    def of(self, place: PlacementRequest) -> list[tuple[_Kind, list[NodeId]]]:
        """Returns the nodes where a request may go, by kind, largest kind first."""
        found: dict[int, tuple[_Kind, list[NodeId]]] = {}
        placement = self._state.placement
        for slot in placement.eligible(place).tolist():
            kind = self._kind_of.get(slot) or self._look(slot)
            found.setdefault(id(kind), (kind, []))[1].append(placement.node_at(slot))
        return sorted(found.values(), key=lambda each: _size(each[0][0]), reverse=True)

    def _look(self, slot: int) -> _Kind:
        node = self._state.nodes[self._state.placement.node_at(slot)]
        kind = node.registration.capacity, node.cordoned_gpus
        same = self._kind_of[slot] = self._same.setdefault(kind, kind)
        return same


def usable_nodes(state: ClusterState, requests: list[PlacementRequest], layout: Layout) -> frozenset[NodeId]:
    """Returns the nodes that could take one of the members if nothing else ran there; all of them, to pack them."""
    kinds, found = _Kinds(state), set[NodeId]()
    for place, demands in _by_place(_wanted(requests, layout)).items():
        for kind, nodes in kinds.of(place):
            if any(_holds(kind, demand) for demand in demands):
                found.update(nodes)
    return frozenset(found)


def empty_engine(state: ClusterState, requests: list[PlacementRequest], layout: Layout) -> Engine:
    """Returns nodes with nothing on them, on which the members fit if they do on all nodes; the same while those last.

    For each member there are as many nodes as there are members, or all that could take it: so whichever of them the
    others are on, it lacks none that it would have had. The largest of all are among them.
    """
    usable = usable_nodes(state, requests, layout) or usable_nodes(state, requests, Layout.ANY)
    most = len(requests) if layout is not Layout.PACK else _NODES_TRIED
    sized = sorted(((_size(state.nodes[each].registration.capacity), each) for each in usable), reverse=True)
    largest = map(itemgetter(1), sized[:_NODES_TRIED])
    kept = frozenset((*largest, *_largest(state, _wanted(requests, layout), most)))
    known = state.gangs.empty
    if known is not None and known[:2] == (state.nodes_changed, kept):
        return known[2]
    empty = Engine()
    for node_id in sorted(kept):
        empty.upsert(placement_node(state.nodes[node_id]))
    state.gangs.empty = state.nodes_changed, kept, empty
    return empty


def _largest(state: ClusterState, wanted: list[PlacementRequest], most: int) -> set[NodeId]:
    """Returns for each of some requests the largest nodes that could take it if they were empty."""
    kinds, found = _Kinds(state), set[NodeId]()
    for place, demands in _by_place(wanted).items():
        ordered = kinds.of(place)
        for demand in demands:
            left = most
            for kind, nodes in ordered:
                if not left:
                    break
                if _holds(kind, demand):
                    found.update(nodes[:left])
                    left -= len(nodes[:left])
    return found


def _wanted(requests: list[PlacementRequest], layout: Layout) -> list[PlacementRequest]:
    return [needed_on_one(requests)] if layout is Layout.PACK else requests


def _by_place(requests: Iterable[PlacementRequest]) -> dict[PlacementRequest, dict[Demand, None]]:
    """Returns different demands by where they may go."""
    found: dict[PlacementRequest, dict[Demand, None]] = {}
    for request in requests:
        found.setdefault(replace(request, demand=NO_DEMAND), {})[request.demand] = None
    return found


def _holds(kind: _Kind, demand: Demand) -> bool:
    capacity, closed = kind
    share = demand.gpu_memory_bytes or 0
    return (
        capacity.cpu_milli >= demand.cpu_milli
        and capacity.memory_bytes >= demand.memory_bytes
        and capacity.disk_bytes >= demand.disk_bytes
        and sum(gpu.memory_bytes >= share for gpu in capacity.gpus if gpu.index not in closed) >= demand.gpus
    )


def _size(capacity: Capacity) -> tuple[int, int, int]:
    return len(capacity.gpus), capacity.cpu_milli, capacity.memory_bytes
