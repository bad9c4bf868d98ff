"""The local driver: nodes that live in the process of the control plane, in tests and on a single machine."""

from __future__ import annotations

from collections.abc import Sequence

from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.wire.attachments import Attachments

__all__ = ["LocalDriver"]


class LocalDriver(Attachments):
    """Hands orders to the nodes that were added to it. The address of a registration is not used."""

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a node; see ``core.ports.NodeDriver``."""
        _ = address
        await self.take(node_id, epoch, orders)
