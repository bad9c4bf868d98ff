"""The local driver: nodes that live in the process of the control plane, in tests and on a single machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from arcray.core.errors import UnavailableError
from arcray.core.ids import NodeId
from arcray.core.orders import Order

__all__ = ["LocalDriver", "LocalNode"]


class LocalNode(Protocol):
    """A machine's end of an attachment, as the driver sees it."""

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders; returns when it has them.

        Raises:
            UnavailableError: it is not attached under this epoch yet, or cannot take more now.
            StaleReportError: it is attached under a newer epoch.
        """
        ...


class LocalDriver:
    """Hands orders to the nodes that were added to it. The address of a registration is not used."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, LocalNode] = {}

    def add(self, node_id: NodeId, node: LocalNode) -> None:
        """Makes a node reachable, in place of any before it under this id."""
        self._nodes[node_id] = node

    def remove(self, node_id: NodeId) -> None:
        """Makes a node unreachable; removing none is no error."""
        self._nodes.pop(node_id, None)

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a node; see ``core.ports.NodeDriver``."""
        _ = address
        node = self._nodes.get(node_id)
        if node is None:
            raise UnavailableError(f"node {node_id} is not in this process")
        await node.deliver(epoch, orders)
