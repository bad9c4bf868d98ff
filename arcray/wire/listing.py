"""Reading the whole list of nodes, page by page, for what only a protocol knows how to filter."""

from __future__ import annotations

from arcray.core.node import NodeView
from arcray.core.ports import ControlPlane
from arcray.core.queries import PAGE_LIMIT, ListNodes, NodePage

__all__ = ["every_node"]


async def every_node(plane: ControlPlane) -> list[NodeView]:
    """Returns every node, in order of joining."""
    found: list[NodeView] = []
    while True:
        page: NodePage = await plane.query(ListNodes(limit=PAGE_LIMIT, offset=len(found)))
        found += page.nodes
        if not page.nodes or len(found) >= page.total:
            return found
