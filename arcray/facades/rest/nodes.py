"""The routes by which an operator looks after nodes. Thin: reads the request, asks the plane, writes the answer.

Nodes are listed by the ArcNet facade, whose document owns ``GET /api/v1/nodes``; these are the routes beside it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import DrainNode, LabelNode, SetNodeScheduling
from arcray.core.ids import NodeId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.node import NodeView
from arcray.core.queries import PAGE_LIMIT, GetNode, ListNodes, NodePage
from arcray.facades.rest import codec, operation_translate
from arcray.facades.rest import operation_messages as om
from arcray.wire.access import Door
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import json_answer, json_body, json_response, problems, schema_of

__all__ = ["NodeRoutes"]

_PATH: Final = "/api/v1/nodes/{id}"
_LIST: Final = "/api/v1/node-states"

_Id: TypeAlias = Annotated[str, Path(alias="id", description="its UUID")]


class NodeRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        state = json_answer("What holds of the node now.", schema_of(om.NodeStateView))
        page = json_answer("One page, in order of joining.", schema_of(om.NodeStatesView))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["nodes"], response_class=Response)
        add(
            _LIST,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List cordons, drains and labels of all nodes",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/scheduling",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get cordons, drain and labels of a node",
            responses={200: state, **problems(400, 401, 403, 404)},
        )
        for name, endpoint, summary, body in (
            ("cordon", self.cordon, "Take no new work on a node, or on some of its GPUs", om.CordonBody),
            ("uncordon", self.uncordon, "Take new work again, and call a drain off", om.CordonBody),
            ("drain", self.drain, "Cordon, and move the old work away", om.DrainBody),
        ):
            add(
                f"{_PATH}/{name}",
                door(Scope.OPERATOR, endpoint),
                methods=["POST"],
                summary=summary,
                openapi_extra=json_body(schema_of(body), required=False),
                responses={200: state, **problems(400, 401, 403, 404, 503)},
            )
        add(
            f"{_PATH}/labels",
            door(Scope.OPERATOR, self.label),
            methods=["PATCH"],
            summary="Set and remove labels",
            openapi_extra=json_body(schema_of(om.LabelsBody), {"labels": {"zone": "eu", "spare": None}}),
            responses={200: state, **problems(400, 401, 403, 404, 503)},
        )

    async def index(
        self,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists what holds of every node's scheduling now."""
        page: NodePage = await self._plane.query(ListNodes(limit=limit, offset=offset))
        views = [operation_translate.node_state_view(view) for view in page.nodes]
        return json_response(codec.encode(om.NodeStatesView(nodes=views, total=page.total, limit=limit, offset=offset)))

    async def get(self, node_id: _Id) -> Response:
        """Returns what holds of a node's scheduling now."""
        return await self._state(_parsed(node_id))

    async def cordon(self, request: Request, node_id: _Id) -> Response:
        """Has a node, or some of its GPUs, take no new work; what runs there goes on."""
        return await self._schedule(request, _parsed(node_id), cordoned=True)

    async def uncordon(self, request: Request, node_id: _Id) -> Response:
        """Has a node, or some of its GPUs, take work again."""
        return await self._schedule(request, _parsed(node_id), cordoned=False)

    async def drain(self, request: Request, node_id: _Id) -> Response:
        """Begins to move the work away and returns at once; `drained` says when it has gone."""
        body = codec.decode(om.DrainBody, await request.body(), optional=True)
        return await self._do(operation_translate.drain_of(_parsed(node_id), body))

    async def label(self, request: Request, node_id: _Id) -> Response:
        """Lays labels over those that the machine gives itself; null removes one."""
        body = codec.decode(om.LabelsBody, await request.body())
        return await self._do(LabelNode(node_id=_parsed(node_id), labels=body.labels))

    async def _schedule(self, request: Request, node_id: NodeId, *, cordoned: bool) -> Response:
        body = codec.decode(om.CordonBody, await request.body(), optional=True)
        return await self._do(SetNodeScheduling(node_id=node_id, cordoned=cordoned, gpus=frozenset(body.gpus)))

    async def _do(self, command: SetNodeScheduling | LabelNode | DrainNode) -> Response:
        await ask(self._plane, command)
        return await self._state(command.node_id)

    async def _state(self, node_id: NodeId) -> Response:
        view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        return json_response(codec.encode(operation_translate.node_state_view(view)))


def _parsed(node_id: str) -> NodeId:
    return NodeId(canonical_uuid(node_id))
