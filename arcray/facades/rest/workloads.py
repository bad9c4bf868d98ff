"""The routes of workloads. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Annotated, Final, TypeAlias, assert_never

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from arcray.core.blobkeys import log_key
from arcray.core.commands import StopWorkload
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import NodeId, WorkloadId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.queries import OFFSET_LIMIT, PAGE_LIMIT, ExplainWorkload, GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.workload import Inference, PayloadKind, Phase, WorkloadView
from arcray.facades.rest import codec, logs, translate
from arcray.facades.rest import messages as m
from arcray.facades.rest.cursors import cursor_of, cursor_text
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Identity
from arcray.wire.routes import RawRoute, idempotency, json_answer, json_body, json_response, problems, schema_of
from arcray.wire.submitting import submit_work

__all__ = ["WorkloadRoutes"]

_PATH: Final = "/api/v1/workloads"
_CHUNK_BYTES: Final = 1 << 20
_NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}  # a log or a result is never a page of ours

_Id: TypeAlias = Annotated[str, Path(alias="id", description="its UUID")]


class WorkloadRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The workload.", schema_of(m.WorkloadView))
        page = json_answer("One page, newest first.", schema_of(m.WorkloadsView))
        files = json_answer("The files, sorted by path.", schema_of(m.ResultsView))
        why = json_answer("The filters and what they refused.", schema_of(m.ExplanationBody))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["workloads"], response_class=Response)
        add(
            _PATH,
            door(Scope.SUBMIT, self.create),
            methods=["POST"],
            route_class_override=RawRoute,
            summary="Submit a program or a container",
            status_code=201,
            openapi_extra=json_body(schema_of(codec.SUBMISSION), _EXAMPLE),
            responses={200: one, 201: one, **problems(400, 401, 402, 403, 404, 413, 422, 429, 503)},
        )
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List workloads",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get a workload",
            responses={200: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.SUBMIT, self.delete),
            methods=["DELETE"],
            summary="Stop a workload",
            status_code=202,
            responses={202: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/stop",
            door(Scope.SUBMIT, self.stop),
            methods=["POST"],
            summary="Stop a workload",
            status_code=202,
            openapi_extra=json_body(schema_of(m.StopBody), required=False),
            responses={202: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/logs",
            door(Scope.READ, self.logs),
            methods=["GET"],
            summary="Read or follow a log",
            responses={200: {"description": "The log.", "content": {"text/plain": {}}}, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/results",
            door(Scope.READ, self.results),
            methods=["GET"],
            summary="List result files",
            responses={200: files, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/results/{{path:anything}}",
            door(Scope.READ, self.result),
            methods=["GET"],
            summary="Get a result file",
            responses={
                200: {"description": "The file.", "content": {"application/octet-stream": {}}},
                **problems(400, 401, 403, 404),
            },
        )
        add(
            f"{_PATH}/{{id}}/explain",
            door(Scope.READ, self.explain),
            methods=["GET"],
            summary="Explain why a workload waits",
            responses={200: why, **problems(400, 401, 403, 404)},
        )

    async def create(self, request: Request) -> Response:
        """Accepts work; answered once it is on disk. With an `Idempotency-Key` it is safe to send again."""
        identity = identity_of(request)
        body = await request.body()
        wanted = codec.decode_submission(body)
        key, digest = idempotency(request, body)
        submission = translate.Submission(
            workload_id=WorkloadId(self._context.ids.new()),
            account=identity.account,
            now=self._context.clock.now(),
            key=key,
            digest=digest,
        )
        blobs: dict[str, bytes] = {}
        match wanted:
            case m.ProgramBody():
                spec, blobs = translate.program_of(wanted, submission)
            case m.ContainerBody():
                spec = translate.container_of(wanted, submission)
            case _:
                assert_never(wanted)
        reply = await submit_work(self._plane, spec, blobs)
        headers = {"Location": f"{_PATH}/{reply.workload_id}"}
        if not reply.created:
            return await self._view(identity, reply.workload_id, 200, headers)
        return json_response(codec.encode(translate.workload_view(translate.accepted(spec, reply))), 201, headers)

    async def index(
        self,
        request: Request,
        *,
        kind: Annotated[list[PayloadKind] | None, Query(description="default: all but inference")] = None,
        phase: Annotated[list[Phase] | None, Query()] = None,
        node_id: Annotated[str | None, Query(alias="nodeId")] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=OFFSET_LIMIT)] = 0,
        cursor: Annotated[str, Query(max_length=128, description="`nextCursor` of the page before")] = "",
    ) -> Response:
        """Lists workloads, newest first; `total` counts all that match, `nextCursor` leads on, null at the end."""
        identity = identity_of(request)
        query = ListWorkloads(
            account=identity.sees,
            kinds=frozenset(kind or ()),
            phases=frozenset(phase or ()),
            node_id=None if node_id is None else NodeId(canonical_uuid(node_id, "nodeId")),
            limit=limit,
            offset=offset,
            after=cursor_of(cursor) if cursor else None,
        )
        page: WorkloadPage = await self._plane.query(query)
        views = [translate.workload_view(view) for view in page.workloads]
        following = None if page.next is None else cursor_text(page.next)
        body = m.WorkloadsView(workloads=views, total=page.total, limit=limit, offset=offset, next_cursor=following)
        return json_response(codec.encode(body))

    async def get(self, request: Request, workload_id: _Id) -> Response:
        """Returns a workload, ended ones too."""
        identity = identity_of(request)
        return await self._view(identity, _parsed(workload_id))

    async def delete(self, request: Request, workload_id: _Id) -> Response:
        """Stops a workload with the default grace; its record stays."""
        identity = identity_of(request)
        return await self._stop(identity, _parsed(workload_id), m.StopBody())

    async def stop(self, request: Request, workload_id: _Id) -> Response:
        """Stops a workload; one that has ended stays as it is."""
        identity = identity_of(request)
        return await self._stop(identity, _parsed(workload_id), codec.decode_stop(await request.body()))

    async def logs(
        self,
        request: Request,
        workload_id: _Id,
        *,
        tail_lines: Annotated[int | None, Query(alias="tailLines", ge=0, le=1_000_000)] = None,
        offset: Annotated[int, Query(ge=0, le=2**53, description="the byte to begin at; not with tailLines")] = 0,
        follow: Annotated[bool, Query(description="go on until the workload ends")] = False,
    ) -> Response:
        """Returns what a workload has printed."""
        if offset and tail_lines is not None:
            raise InvalidArgumentError("offset and tailLines both say where to begin", field="offset")
        view = await self._seen(request, workload_id)
        blobs, key = self._plane.blobs, log_key(view.spec.id)
        start = offset if tail_lines is None else await logs.tail_start(blobs, key, tail_lines)
        content = (
            logs.follow(self._plane, self._context.events, view.spec.id, start)
            if follow and not isinstance(view.spec.payload, Inference)
            else logs.read(blobs, key, start)
        )
        return StreamingResponse(content, media_type="text/plain; charset=utf-8", headers=_NO_SNIFFING)

    async def results(self, request: Request, workload_id: _Id) -> Response:
        """Lists the files that a program left in `$ARCRAY_RESULT_DIR`."""
        view = await self._seen(request, workload_id)
        found = []
        for path, key in sorted(translate.result_paths(view).items()):
            found.append(m.ResultView(path=path, size_bytes=await self._plane.blobs.size(key) or 0))
        return json_response(codec.encode(m.ResultsView(results=found)))

    async def result(self, request: Request, workload_id: _Id, path: Annotated[str, Path()]) -> Response:
        """Returns the content of one result file."""
        view = await self._seen(request, workload_id)
        key = translate.result_key_of(view, path)
        size = await self._plane.blobs.size(key)
        if size is None:
            raise NotFoundError("the file of that result is gone", field="path")
        # As a path, lest a name that reads like a data: URL have its own words in our headers.
        kind = mimetypes.guess_type(f"./{path}")[0] or "application/octet-stream"
        headers = {"Content-Length": str(size), "Content-Disposition": "attachment", **_NO_SNIFFING}
        return StreamingResponse(self._chunks(key, size), media_type=kind, headers=headers)

    async def explain(self, request: Request, workload_id: _Id) -> Response:
        """Says what a workload waits for: which filter refused how many nodes, who is ahead, what would help, when."""
        identity = identity_of(request)
        query = ExplainWorkload(workload_id=_parsed(workload_id), account=identity.sees)
        found: WorkloadExplanation = await self._plane.query(query)
        return json_response(codec.encode(translate.explanation_body(found)))

    async def _stop(self, identity: Identity, workload_id: WorkloadId, body: m.StopBody) -> Response:
        # Read first: the rows remember ended work that the scheduler has let go, and stopping that is no error.
        view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id, account=identity.sees))
        if not view.phase.terminal:
            command = StopWorkload(workload_id=workload_id, account=identity.sees, grace_s=body.grace_s)
            await ask(self._plane, command)
        return await self._view(identity, workload_id, 202)

    async def _view(
        self, identity: Identity, workload_id: WorkloadId, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id, account=identity.sees))
        return json_response(codec.encode(translate.workload_view(view)), status, headers)

    async def _seen(self, request: Request, workload_id: str) -> WorkloadView:
        identity = identity_of(request)
        query = GetWorkload(workload_id=_parsed(workload_id), account=identity.sees)
        view: WorkloadView = await self._plane.query(query)
        return view

    async def _chunks(self, key: str, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, _CHUNK_BYTES):
            yield await self._plane.blobs.get(key, start, min(size, start + _CHUNK_BYTES))


def _parsed(workload_id: str) -> WorkloadId:
    return WorkloadId(canonical_uuid(workload_id))


_EXAMPLE: Final = {"kind": "program", "source": "print('hello')", "demand": {"cpu": 1, "memoryMb": 256}}
