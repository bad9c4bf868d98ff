"""The route that answers "what if". Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.errors import PermissionDeniedError
from arcray.core.ids import NodeId, WorkloadId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.node import NodeView
from arcray.core.queries import GetNode
from arcray.core.what_if import Simulation
from arcray.facades.rest import codec, operation_translate, translate
from arcray.facades.rest import operation_messages as om
from arcray.wire.access import Door, identity_of
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import json_answer, json_body, json_response, problems, schema_of

__all__ = ["SimulationRoutes"]

_EXAMPLE: Final = {
    "addNodes": [{"count": 2, "cpu": 64, "memoryMb": 262_144, "gpus": 8, "gpuMemoryMb": 81_920}],
    "submit": [{"kind": "container", "count": 4, "demand": {"gpus": 4}}],
}


class SimulationRoutes:
    """The route over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the route."""
        door = Door(self._context.authenticator)
        router.add_api_route(
            "/api/v1/simulate",
            door(Scope.SUBMIT, self.create),
            methods=["POST"],
            tags=["simulations"],
            response_class=Response,
            summary="Tell what would happen, and change nothing",
            openapi_extra=json_body(schema_of(om.SimulateBody), _EXAMPLE),
            responses={
                200: json_answer("What would happen.", schema_of(om.SimulationView)),
                **problems(400, 401, 403, 404, 413, 429, 503, 504),
            },
        )

    async def create(self, request: Request) -> Response:
        """Adds, removes and drains nodes and submits work, in this order, on a copy of the live state."""
        identity = identity_of(request)
        body = codec.decode(om.SimulateBody, await request.body())
        if identity.sees is not None and (body.remove_nodes or body.drain_nodes):
            raise PermissionDeniedError("what becomes of everybody's work is for operators to ask", field="removeNodes")
        likes = {
            each.like: await self._node(each.like, index) for index, each in enumerate(body.add_nodes) if each.like
        }
        submission = translate.Submission(
            workload_id=WorkloadId(""), account=identity.account, now=self._context.clock.now()
        )
        wanted = operation_translate.simulate_of(body, likes, self._context.ids, submission, identity.sees)
        found: Simulation = await self._plane.query(wanted)
        new_nodes = {node.id for node in wanted.add_nodes}
        return json_response(codec.encode(operation_translate.simulation_view(found, new_nodes)))

    async def _node(self, node_id: str, index: int) -> NodeView:
        wanted = NodeId(canonical_uuid(node_id, f"addNodes.{index}.like"))
        view: NodeView = await self._plane.query(GetNode(node_id=wanted))
        return view
