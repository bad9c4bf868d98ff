"""Departures: which of the nodes that have left are forgotten, and how.

A pool of machines that come for an hour and never again would grow for ever. What has left, or was lost, is forgotten
after a time, unless something alive refers to it. One that comes back after that is a new node: what an operator set on
the old one is gone with it, and its epochs begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from arcray.core.ids import NodeId
from arcray.core.node import Health

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["departed", "forget_nodes"]


def departed(state: ClusterState, *, before: datetime | None, most: int | None, until: datetime) -> Sequence[NodeId]:
    """Returns the nodes that are not to be remembered any longer, longest gone first.

    Args:
        before: those last heard earlier; None is none.
        most: nodes that are gone and remembered all the same, the last heard; None is no limit.
        until: what was heard later is remembered in any case, for reports of it may still be on their way.
    """
    gone = [node for node in state.nodes.values() if _is_away(state, node.id)]
    gone.sort(key=lambda node: (node.last_seen, node.id))
    too_many = 0 if most is None else len(gone) - most
    named = _named(state)
    return [
        node.id
        for position, node in enumerate(gone)
        if (position < too_many or (before is not None and node.last_seen < before))
        and node.last_seen < until
        and not _is_held(state, node.id)
        and node.id not in named
    ]


def forget_nodes(state: ClusterState, node_ids: Iterable[NodeId]) -> Sequence[NodeId]:
    """Forgets these nodes, those that have come back or are referred to again excepted; returns which."""
    named = _named(state)
    forgotten = [
        node_id
        for node_id in node_ids
        if _is_away(state, node_id) and not _is_held(state, node_id) and node_id not in named
    ]
    for node_id in forgotten:
        del state.nodes[node_id]
        del state.on_node[node_id]
        state.placement.remove(node_id)
        state.routing.remove_node(node_id)
        state.reservations.forget_node(node_id)
        state.leases.forget(node_id)
        state.needs_models.discard(node_id)
    if forgotten:
        state.nodes_changed += 1
    return forgotten


def _is_away(state: ClusterState, node_id: NodeId) -> bool:
    node = state.nodes.get(node_id)
    return node is not None and node.health in (Health.LOST, Health.GONE)


def _is_held(state: ClusterState, node_id: NodeId) -> bool:
    """Returns whether something is booked on a node, or a drain of it has not come to its end."""
    booked = state.on_node[node_id] or state.reservations.on_node(node_id) or state.claims.kept_on(node_id)
    return bool(booked) or node_id in state.draining


def _named(state: ClusterState) -> set[NodeId]:
    """Returns the nodes that live work names as the only one for it."""
    live = (workload.spec for workload in state.workloads.values() if not workload.phase.terminal)
    return {spec.node_id for spec in live if spec.node_id is not None}
