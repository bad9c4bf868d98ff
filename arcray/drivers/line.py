"""Nodes that are attached through another process of ours: their orders go over its line to the scheduler.

What lives here: the port. What does not: lines (``runtime.switchboard``) and what the process does with orders
(``wire.attachments``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from arcray.core.ids import NodeId
from arcray.core.orders import Order

__all__ = ["LineDriver", "Lines"]


class Lines(Protocol):
    """The lines that processes keep open to this one."""

    def reaches(self, address: str) -> bool:
        """Returns whether the process of this name has its line open."""
        ...

    async def deliver(self, address: str, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        """Hands a node's orders to its process; returns when it has them.

        Raises:
            UnavailableError: the line is not there, or was lost meanwhile; the orders may have arrived.
            ArcrayError: why they were not taken.
        """
        ...


class LineDriver:
    """Delivers orders over lines; a registration's address is the name of the process that the node is attached by."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a node; see ``core.ports.NodeDriver``."""
        await self._lines.deliver(address, node_id, epoch, orders)
