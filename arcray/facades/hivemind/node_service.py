"""NodeManagerService as those see it who look at the pool: health and the list of nodes.

Its other methods are what workers tell; see ``worker_service``.
"""

from __future__ import annotations

from collections.abc import Mapping

from arcray.core.errors import NotFoundError
from arcray.core.node import NodeView
from arcray.core.ports import ControlPlane
from arcray.core.queries import PAGE_LIMIT, GetNode, ListNodes, NodePage
from arcray.facades.hivemind.calls import Call, Method
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.refusals import ErrorCode
from arcray.facades.hivemind.tasks import FACADE
from arcray.facades.hivemind.workers import health_answer, is_listed, node_id_of, node_list

__all__ = ["NodeService", "all_nodes"]


async def all_nodes(plane: ControlPlane, facade: str = "") -> list[NodeView]:
    """Returns all nodes that joined by a protocol, in order of joining; "" is any."""
    found: list[NodeView] = []
    while True:
        page: NodePage = await plane.query(ListNodes(limit=PAGE_LIMIT, offset=len(found), facade=facade))
        found += page.nodes
        if not page.nodes or len(found) >= page.total:
            return found


class NodeService:
    """Answers for nodes.

    Args:
        others: lists show nodes that joined by other protocols too.
    """

    def __init__(self, plane: ControlPlane, *, others: bool) -> None:
        self._plane = plane
        self._others = others

    def methods(self) -> Mapping[str, Method]:
        """Returns these methods of the service by name."""
        return {"HealthCheck": self.health_check, "GetNodeList": self.get_node_list}

    async def health_check(self, request: pool.HealthCheckRequest, call: Call) -> pool.HealthCheckResponse:
        """Tells how a worker does."""
        node_id = node_id_of(request.node_id)
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        except NotFoundError:
            call.code = ErrorCode.NODE_NOT_FOUND
            return health_answer(None, call.now)
        if not is_listed(view, call.now):
            call.code = ErrorCode.NODE_OFFLINE
        return health_answer(view, call.now)

    async def get_node_list(self, request: pool.GetNodeListRequest, call: Call) -> pool.GetNodeListResponse:
        """Lists the nodes that were heard of lately."""
        _ = request
        views = await all_nodes(self._plane, "" if self._others else FACADE)
        return node_list(views, call.now, others=self._others)
