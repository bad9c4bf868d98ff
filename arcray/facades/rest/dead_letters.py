"""The routes of dead letters. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import DiscardWorkload, Submitted
from arcray.core.errors import ConflictError, IdempotencyMismatchError, InvalidArgumentError, NotFoundError
from arcray.core.ids import WorkloadId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.queries import OFFSET_LIMIT, PAGE_LIMIT, GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.workload import PayloadKind, WorkloadView
from arcray.facades.rest import codec, operation_translate, translate
from arcray.facades.rest import messages as m
from arcray.facades.rest import operation_messages as om
from arcray.facades.rest.cursors import cursor_of, cursor_text
from arcray.facades.rest.replays import Replay, replay_of
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Identity
from arcray.wire.routes import idempotency, json_answer, json_body, json_response, problems, schema_of
from arcray.wire.submitting import submit_work

__all__ = ["DeadLetterRoutes"]

_PATH: Final = "/api/v1/dead-letters"
_EXAMPLE: Final = {"demand": {"cpu": 1, "memoryMb": 4096}, "env": {"BATCH": "16"}}

_Id: TypeAlias = Annotated[str, Path(alias="id", description="the UUID of the workload")]


class DeadLetterRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The dead letter.", schema_of(om.DeadLetterView))
        page = json_answer("One page, newest first.", schema_of(om.DeadLettersView))
        again = json_answer("The workload that tries again.", schema_of(m.WorkloadView))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["dead letters"], response_class=Response)
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List work that ended badly and waits for somebody",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Show why, and every attempt",
            responses={200: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/replay",
            door(Scope.SUBMIT, self.replay),
            methods=["POST"],
            summary="Try again, with edits",
            status_code=201,
            openapi_extra=json_body(schema_of(om.ReplayBody), _EXAMPLE, required=False),
            responses={200: again, 201: again, **problems(400, 401, 403, 404, 409, 413, 422, 429, 503)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.SUBMIT, self.delete),
            methods=["DELETE"],
            summary="Put a dead letter away",
            status_code=204,
            responses={204: {"description": "Put away; its record stays."}, **problems(400, 401, 403, 404, 409)},
        )

    async def index(
        self,
        request: Request,
        *,
        kind: Annotated[list[PayloadKind] | None, Query(description="default: all")] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=OFFSET_LIMIT)] = 0,
        cursor: Annotated[str, Query(max_length=128, description="`nextCursor` of the page before")] = "",
    ) -> Response:
        """Lists dead letters, newest first; `total` counts all that match, `nextCursor` leads on, null at the end."""
        identity = identity_of(request)
        query = ListWorkloads(
            account=identity.sees,
            kinds=frozenset(kind or PayloadKind),
            dead=True,
            limit=limit,
            offset=offset,
            after=cursor_of(cursor) if cursor else None,
        )
        page: WorkloadPage = await self._plane.query(query)
        views = [operation_translate.dead_letter_view(view) for view in page.workloads]
        following = None if page.next is None else cursor_text(page.next)
        shown = om.DeadLettersView(
            dead_letters=views, total=page.total, limit=limit, offset=offset, next_cursor=following
        )
        return json_response(codec.encode(shown))

    async def get(self, request: Request, workload_id: _Id) -> Response:
        """Returns a dead letter with its newest attempts."""
        identity = identity_of(request)
        view = await self._view(identity, _parsed(workload_id))
        if not view.dead:
            raise NotFoundError(f"workload {view.spec.id} is no dead letter", field="id")
        return json_response(codec.encode(operation_translate.dead_letter_view(view)))

    async def replay(self, request: Request, workload_id: _Id) -> Response:
        """Submits the work once more, with the members of the body in place of its own.

        Sending it again is the same replay, with or without an `Idempotency-Key`.
        """
        identity = identity_of(request)
        body = await request.body()
        edits = codec.decode(om.ReplayBody, body, optional=True)
        ended = await self._view(identity, _parsed(workload_id))
        # Without a key of its own a replay is the one of this dead letter: a second click joins it. What is replayed
        # stands in the path, so the digest tells it apart too.
        own = f"replay of {ended.spec.id}"
        key, digest = idempotency(request, own.encode() + b"\n" + body, own)
        submission = translate.Submission(
            workload_id=WorkloadId(self._context.ids.new()),
            account=ended.spec.origin.account,
            now=self._context.clock.now(),
            key=key,
            digest=digest,
        )
        try:
            reply = await self._submit(replay_of(ended.spec, edits, submission))
        except IdempotencyMismatchError as error:
            if key != own:
                raise
            raise ConflictError(f"workload {ended.spec.id} was replayed with other edits", field="id") from error
        view = await self._view(identity, reply.workload_id)
        headers = {"Location": f"/api/v1/workloads/{reply.workload_id}"}
        return json_response(codec.encode(translate.workload_view(view)), 201 if reply.created else 200, headers)

    async def delete(self, request: Request, workload_id: _Id) -> Response:
        """Takes a dead letter off the list; doing it again changes nothing."""
        identity = identity_of(request)
        command = DiscardWorkload(workload_id=_parsed(workload_id), account=identity.sees)
        await ask(self._plane, command)
        return Response(status_code=204)

    async def _submit(self, replay: Replay) -> Submitted:
        blobs = dict(replay.blobs)
        for key, source in replay.copies.items():
            try:
                blobs[key] = await self._plane.blobs.get(source)
            except NotFoundError as error:
                raise InvalidArgumentError("its code is gone; give it again", field="source") from error
        return await submit_work(self._plane, replay.spec, blobs)

    async def _view(self, identity: Identity, workload_id: WorkloadId) -> WorkloadView:
        view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id, account=identity.sees))
        return view


def _parsed(workload_id: str) -> WorkloadId:
    return WorkloadId(canonical_uuid(workload_id))
