"""ArcNet over HTTP: four routes. Thin: reads the request, asks the plane, writes the answer.

Source: ArcNet API Reference, "REST API". ``POST /api/v1/inference`` is the hot path of the whole gateway: no dependency
injection, no response model, one call of the plane.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import Submitted, SubmitWorkload
from arcray.core.errors import (
    ArcrayError,
    InternalError,
    NoCandidatesError,
)
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import NodeId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.node import EnergySource
from arcray.core.queries import PAGE_LIMIT, ExplainWorkload, GetNode, GetStats, GetWorkload
from arcray.core.workload import WorkloadSpec, WorkloadView
from arcray.facades.arcnet import codec, openapi, translate
from arcray.facades.arcnet.messages import InferenceAnswer, InferenceRequest, InferenceStatus, NodeStatus
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.headers import header
from arcray.wire.identity import Identity
from arcray.wire.large_json import LARGE_BYTES, Turns
from arcray.wire.listing import every_node
from arcray.wire.problem import explanation_members, problem_response
from arcray.wire.routes import RawRoute, idempotency, json_answer, json_body, json_response, problems
from arcray.wire.strict_json import dumps

__all__ = ["INFERENCE_PATH", "ArcnetRest"]

INFERENCE_PATH: Final = "/api/v1/inference"


class ArcnetRest:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane
        self._turns = Turns()

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        door = Door(self._context.authenticator)
        # First, because routes are tried in order.
        router.add_api_route(
            INFERENCE_PATH,
            door(Scope.SUBMIT, self.infer),
            methods=["POST"],
            tags=["inference"],
            summary="Ask a model",
            description=(
                "Answers when the model has answered. `Prefer: respond-async` answers 202 as soon as the request is "
                "on disk. `Idempotency-Key`, or else `requestId`, makes it safe to send again."
            ),
            response_class=Response,
            openapi_extra=json_body(openapi.REQUEST, openapi.REQUEST_EXAMPLE),
            responses={
                200: json_answer("The model's answer.", openapi.ANSWER),
                202: json_answer("Accepted and on disk.", openapi.ANSWER),
                **problems(400, 401, 402, 403, 413, 422, 429, 502, 503, 504),
            },
            route_class_override=RawRoute,
        )
        router.add_api_route(
            "/api/v1/nodes",
            door(Scope.READ, self.nodes),
            methods=["GET"],
            tags=["nodes"],
            summary="List nodes",
            response_class=Response,
            responses={200: json_answer("One page.", openapi.NODES), **problems(400, 401, 403)},
        )
        router.add_api_route(
            "/api/v1/nodes/{node_id}",
            door(Scope.READ, self.node),
            methods=["GET"],
            tags=["nodes"],
            summary="Get a node",
            response_class=Response,
            responses={200: json_answer("The node.", openapi.NODE), **problems(400, 401, 403, 404)},
        )
        router.add_api_route(
            "/api/v1/stats",
            door(Scope.READ, self.stats),
            methods=["GET"],
            tags=["nodes"],
            summary="Count everything alive",
            response_class=Response,
            responses={200: json_answer("The counts.", openapi.STATS), **problems(401, 403)},
        )

    async def nodes(
        self,
        *,
        geozone: Annotated[str | None, Query(max_length=codec.GEOZONE_LIMIT)] = None,
        status: Annotated[NodeStatus | None, Query()] = None,
        energy: Annotated[EnergySource | None, BeforeValidator(_cogen), Query()] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists the nodes that pass every filter, in order of joining; `total` counts all of them."""
        now = self._context.clock.now()
        found = [translate.node_of(view, now) for view in await every_node(self._plane)]
        passing = [
            node
            for node in found
            if geozone in (None, node.geozone)
            and status in (None, node.status)
            and energy in (None, node.telemetry.energy_source)
        ]
        page = passing[offset : offset + limit]
        return _json(codec.node_page(page, total=len(passing), limit=limit, offset=offset))

    async def node(self, node_id: Annotated[str, Path(description="its UUID")]) -> Response:
        """Returns one node."""
        view = await self._plane.query(GetNode(node_id=NodeId(canonical_uuid(node_id))))
        return _json(codec.node_members(translate.node_of(view, self._context.clock.now())))

    async def stats(self) -> Response:
        """Returns the counts of everything alive, and the latencies of the newest answers."""
        return _json(translate.stats_of(await self._plane.query(GetStats()), self._context.clock.now()))

    async def infer(self, request: Request) -> Response:
        """Routes a request to a node that has the model and returns its answer."""
        identity = identity_of(request)
        body = await request.body()
        if len(body) <= LARGE_BYTES:
            wanted = codec.decode_inference(body)
        else:
            wanted = codec.inference_of(await self._turns.members(body))
        spec = self._spec(request, identity, body, wanted)
        reply = await ask(self._plane, SubmitWorkload(spec=spec))
        match reply:
            case Submitted(phase=phase) if spec.waiting and phase.terminal:  # it was asked before, without waiting
                known = GetWorkload(workload_id=reply.workload_id, account=identity.account)
                return await self._answered(await self._plane.query(known), request)
            case Submitted():
                return self._accepted(spec, reply)
            case WorkloadView():
                return await self._answered(reply, request)
            case _:
                raise InternalError(f"the scheduler answered a request with {type(reply).__name__}")

    def _spec(self, request: Request, identity: Identity, body: bytes, wanted: InferenceRequest) -> WorkloadSpec:
        own = f"{translate.FACADE}/{wanted.request_id}" if wanted.request_id else ""
        key, digest = idempotency(request, body, fallback=own)
        return translate.spec_of(
            wanted,
            account=identity.account,
            workload_id=self._context.ids.new(),
            now=self._context.clock.now(),
            key=key,
            digest=digest,
            waiting="respond-async" not in header(request, b"prefer").lower(),
        )

    def _accepted(self, spec: WorkloadSpec, reply: Submitted) -> Response:
        answer = InferenceAnswer(
            # A key that came again belongs to the first request, whose body was the same.
            request_id=spec.origin.external_id or reply.workload_id,
            status=translate.status_of_phase(reply.phase),
            target_node_id=reply.node_id or "",
            model_id=translate.model_id_of(spec),
            latency_ms=None,
        )
        headers = {"Location": f"/api/v1/workloads/{reply.workload_id}", "Preference-Applied": "respond-async"}
        return json_response(codec.encode_answer(answer), 202, headers)

    async def _answered(self, view: WorkloadView, request: Request) -> Response:
        answer = translate.answer_of(view)
        if answer.status is InferenceStatus.COMPLETED:
            return json_response(codec.encode_answer(answer))
        if answer.status is InferenceStatus.REJECTED:
            raise NoCandidatesError(view.message or None, details=await self._explanation(view))
        return problem_response(
            InternalError(answer.reason or "the model failed on this request"),
            instance=request.url.path,
            status=502,
            code="INFERENCE_FAILED",
            extra=codec.answer_members(answer),  # its status gives way to the problem's, which is a number
        )

    async def _explanation(self, view: WorkloadView) -> dict[str, Any]:
        try:
            found: WorkloadExplanation = await self._plane.query(ExplainWorkload(workload_id=view.spec.id))
        except ArcrayError:
            return {}  # forgotten meanwhile; the message has the sentence
        return {"explanation": explanation_members(found.placement)}


def _cogen(value: object) -> object:
    """The first implementation says solar where the document says cogen."""
    return EnergySource.COGEN.value if value == "solar" else value


def _json(value: Any) -> Response:
    return json_response(dumps(value))
