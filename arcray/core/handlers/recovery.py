"""Rules about recovery: what nodes must be told again when the shell that told them is another one."""

from __future__ import annotations

from typing import Final

from arcray.core.handlers.inference import run_order
from arcray.core.handlers.starting import start_order
from arcray.core.handlers.stopping import stop_order
from arcray.core.node import Health, Node
from arcray.core.orders import NodeOrder, Order
from arcray.core.policy import ClusterPolicy
from arcray.core.state import ClusterState
from arcray.core.workload import Inference, Phase, Workload

__all__ = ["undelivered"]

_STOP_GRACE_S: Final = 10.0  # the grace first asked for is not kept; the node that knows it goes by the first order


def undelivered(state: ClusterState, policy: ClusterPolicy) -> tuple[NodeOrder, ...]:
    """Returns the orders that may be lost: starts that no node has reported on, and stops that have not ended.

    A node that was lost or left gets none: it compares inventories when it attaches again.
    """
    orders: list[NodeOrder] = []
    for node in state.nodes.values():
        if node.health in (Health.LOST, Health.GONE):
            continue
        for workload in state.live_on(node.id):
            order = _order(workload, node, policy)
            if order is not None:
                orders.append(NodeOrder(node_id=node.id, epoch=node.epoch, order=order))
    return tuple(orders)


def _order(workload: Workload, node: Node, policy: ClusterPolicy) -> Order | None:
    if workload.phase is Phase.STOPPING:
        return stop_order(workload, _STOP_GRACE_S)
    if workload.phase is not Phase.PLACED:
        return None
    if isinstance(workload.spec.payload, Inference):
        return run_order(workload, policy)
    return start_order(workload, node)
