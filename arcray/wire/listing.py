"""Reading whole lists, page by page: nodes, for what only a protocol knows how to filter, and what one of them has."""

from __future__ import annotations

from typing import Final

from arcray.core.ids import NodeId
from arcray.core.node import NodeView
from arcray.core.ports import ControlPlane
from arcray.core.queries import PAGE_LIMIT, ListNodes, ListWorkloads, NodePage, WorkloadPage
from arcray.core.workload import Phase, WorkloadView

__all__ = ["every_node", "every_placed"]

_PLACED: Final = frozenset(phase for phase in Phase if not phase.terminal and phase is not Phase.PENDING)


async def every_node(plane: ControlPlane) -> list[NodeView]:
    """Returns every node, in order of joining."""
    found: list[NodeView] = []
    while True:
        page: NodePage = await plane.query(ListNodes(limit=PAGE_LIMIT, offset=len(found)))
        found += page.nodes
        if not page.nodes or len(found) >= page.total:
            return found


async def every_placed(plane: ControlPlane, node_id: NodeId) -> list[WorkloadView]:
    """Returns all work that is placed on a node and has not ended, newest first."""
    found: list[WorkloadView] = []
    page: WorkloadPage | None = None
    while page is None or page.next is not None:
        after = None if page is None else page.next
        page = await plane.query(ListWorkloads(node_id=node_id, phases=_PLACED, limit=PAGE_LIMIT, after=after))
        assert page is not None
        found += page.workloads
    return found
