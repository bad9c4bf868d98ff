"""One turn: one command being handled.

A handler decides by reading ``state`` and acts by ``emit``, which applies the event at once, so that the next decision
of the same turn sees it (a scheduling round places many). A handler refuses by raising *before* its first ``emit``;
``Cluster.handle`` asserts it, so a refused command leaves the state as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from arcray.core.commands import Reply
from arcray.core.events import Event
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Node
from arcray.core.orders import NodeOrder, Order, StartWorkload
from arcray.core.policy import ClusterPolicy

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["Outcome", "Turn"]

_NOBODY: Final[Mapping[NodeId, datetime]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What handling a command came to.

    Args:
        events: already applied, in order.
        orders: to be delivered once the durable events among ``events`` are on disk.
        awaits: the reply is the final ``WorkloadView`` of this workload, once its end is on disk.
    """

    reply: Reply
    events: tuple[Event, ...]
    orders: tuple[NodeOrder, ...]
    awaits: WorkloadId | None = None


class Turn:
    """The state, the policy, the time, and what has been decided so far."""

    __slots__ = ("awaits", "charged", "events", "heard", "now", "orders", "policy", "state")

    def __init__(self, state: ClusterState, policy: ClusterPolicy, now: datetime) -> None:
        self.state = state
        self.policy = policy
        self.now = now
        self.events: list[Event] = []
        self.orders: list[NodeOrder] = []
        self.awaits: WorkloadId | None = None
        self.charged = 0  # events whose price has been seen to
        self.heard: Mapping[NodeId, datetime] = _NOBODY  # nodes lost in this turn: up to when their work is paid

    def emit(self, event: Event) -> None:
        """Applies and records a fact."""
        if event.durable:
            self.state.before.note(event, self.state)
        self.state.apply(event)
        self.events.append(event)

    def order(self, node: Node, order: Order) -> None:
        """Asks a node, under its present attachment."""
        self.orders.append(NodeOrder(node_id=node.registration.id, epoch=node.epoch, order=order))

    def withdraw(self, workload_id: WorkloadId) -> bool:
        """Takes back the start that this turn would order of a workload, of which its node has not heard.

        Returns:
            Whether there was one.
        """
        kept = [
            order
            for order in self.orders
            if not isinstance(order.order, StartWorkload) or order.order.workload_id != workload_id
        ]
        withdrawn = len(kept) < len(self.orders)
        self.orders = kept
        return withdrawn
