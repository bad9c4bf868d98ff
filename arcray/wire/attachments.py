"""Machines that joined the cluster through this process, and who takes their orders.

Several machines share the line of the process that they are attached through. A facade that attaches one names this
process in its registration (``driver``, ``address``) and puts here what takes its orders; the process's end of the line
hands them over by node. A machine that has gone from here is unreachable, and its orders are tried again for as long as
its lease lasts: it may be back, here or in another process, under a new epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from arcray.core.errors import UnavailableError
from arcray.core.ids import NodeId
from arcray.core.orders import Order

__all__ = ["DRIVER", "AttachedNode", "Attachments"]

DRIVER: Final = "gateway"
"""Name of the driver that reaches machines through the process that they are attached by."""


class AttachedNode(Protocol):
    """A machine's end of an attachment."""

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders; returns when it has them.

        Raises:
            UnavailableError: it is not attached under this epoch yet, or cannot take more now.
            StaleReportError: it is attached under a newer epoch.
        """
        ...


class Attachments:
    """The machines of one process.

    Args:
        address: names the process, in registrations.
    """

    def __init__(self, address: str = "") -> None:
        self.address: Final = address
        self._nodes: dict[NodeId, AttachedNode] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node_id: NodeId, node: AttachedNode) -> None:
        """Makes a machine reachable, in place of any before it under this id."""
        self._nodes[node_id] = node

    def remove(self, node_id: NodeId, node: AttachedNode | None = None) -> None:
        """Makes a machine unreachable; removing none is no error.

        Args:
            node: removed only if it is still this one, so that a late good-bye costs its successor nothing.
        """
        if node is None or self._nodes.get(node_id) is node:
            self._nodes.pop(node_id, None)

    async def take(self, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a machine; returns when it has them.

        Raises:
            UnavailableError: it is not here, or as ``AttachedNode.deliver``.
            StaleReportError: as ``AttachedNode.deliver``.
        """
        node = self._nodes.get(node_id)
        if node is None:
            raise UnavailableError(f"node {node_id} is not attached here")
        await node.deliver(epoch, orders)
