"""The routes of models. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Annotated, Final, TypeAlias
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.blobkeys import model_key
from arcray.core.commands import RegisterModel, RemoveModel, Submitted, SubmitWorkload
from arcray.core.errors import ArcrayError, ConflictError
from arcray.core.ids import ModelId, WorkloadId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.queries import PAGE_LIMIT, GetModel, GetWorkload, ListModels, ModelPage, ModelView
from arcray.core.workload import WorkloadView
from arcray.facades.rest import codec, model_translate, translate
from arcray.facades.rest import messages as m
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Identity
from arcray.wire.listing import every_node
from arcray.wire.routes import json_answer, json_body, json_response, problems, schema_of

__all__ = ["ModelRoutes"]

_PATH: Final = "/api/v1/models"
_EXAMPLE: Final = {"name": "digits", "format": "onnx", "fromWorkload": {"id": "<workload>", "path": "digits.onnx"}}

_Name: TypeAlias = Annotated[str, Path(description="its name; may hold slashes")]


class ModelRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The model.", schema_of(m.ModelView))
        page = json_answer("One page, sorted by name.", schema_of(m.ModelsView))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["models"], response_class=Response)
        add(
            _PATH,
            door(Scope.SUBMIT, self.create),
            methods=["POST"],
            summary="Register a model and load copies of it",
            status_code=201,
            openapi_extra=json_body(schema_of(m.ModelBody), _EXAMPLE),
            responses={200: one, 201: one, **problems(400, 401, 402, 403, 404, 409, 413, 429, 503)},
        )
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List models",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/{{name:path}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get a model",
            responses={200: one, **problems(401, 403, 404)},
        )
        add(
            f"{_PATH}/{{name:path}}",
            door(Scope.SUBMIT, self.delete),
            methods=["DELETE"],
            summary="Forget a model and stop its copies",
            status_code=204,
            responses={204: {"description": "Forgotten."}, **problems(401, 403, 404)},
        )

    async def create(self, request: Request) -> Response:
        """Registers a model and starts the copies that are missing to `replicas`; safe to send again."""
        identity = identity_of(request)
        wanted = codec.decode_model(await request.body())
        source = model_translate.source_of(wanted)
        if source is None:
            source = await self._store(identity, wanted)
        now = self._context.clock.now()
        model = model_translate.model_of(wanted, source, identity.account, now)
        await ask(self._plane, RegisterModel(model=model))
        known: ModelView = await self._plane.query(GetModel(model_id=model.id))
        started = await self._start(identity, wanted, known, now)
        created = started or known.model.created_at == now
        location = {"Location": f"{_PATH}/{quote(model.id)}"}
        return await self._view(identity, model.id, 201 if created else 200, location)

    async def _start(self, identity: Identity, wanted: m.ModelBody, known: ModelView, now: datetime) -> bool:
        """Starts the copies that are missing; returns whether any was. Those that others start meanwhile count."""
        spec = partial(model_translate.server_of, wanted, known.model)
        missing = [
            translate.Submission(workload_id=WorkloadId(self._context.ids.new()), account=identity.account, now=now)
            for _ in range(known.lasting, wanted.replicas)
        ]
        copies = [SubmitWorkload(spec=spec(each), copies=wanted.replicas) for each in missing]
        replies = await self._plane.submit(copies) if copies else []
        for reply in replies:
            if isinstance(reply, ArcrayError) and not isinstance(reply, ConflictError):
                raise reply
        return any(isinstance(reply, Submitted) for reply in replies)

    async def index(
        self,
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists models, sorted by name."""
        page: ModelPage = await self._plane.query(ListModels(limit=limit, offset=offset))
        pids, sees = await self._pids(), identity_of(request).sees
        views = [model_translate.model_view(view, pids, sees) for view in page.models]
        return json_response(codec.encode(m.ModelsView(models=views, total=page.total, limit=limit, offset=offset)))

    async def get(self, request: Request, name: _Name) -> Response:
        """Returns a model: where it is ready, and what became of its copies."""
        return await self._view(identity_of(request), ModelId(name))

    async def delete(self, request: Request, name: _Name) -> Response:
        """Forgets a model of one's own. Copies of another account end by that account's word only."""
        identity = identity_of(request)
        await ask(self._plane, RemoveModel(model_id=ModelId(name), account=identity.sees))
        return Response(status_code=204)

    async def _store(self, identity: Identity, wanted: m.ModelBody) -> str:
        """Puts a model's file where nodes find it; returns its key. By content, so it is there once.

        Written also where it is there already: an old file that no model names may be about to be deleted.
        """
        content = wanted.content
        if content is None:
            assert wanted.from_workload is not None, "source_of has settled where it comes from"
            content = await self._result(identity, wanted.from_workload)
        key = model_key((await asyncio.to_thread(sha256, content)).hexdigest())
        await self._plane.blobs.put(key, content)
        return key

    async def _result(self, identity: Identity, wanted: m.FromWorkloadBody) -> bytes:
        workload_id = WorkloadId(canonical_uuid(wanted.id, "fromWorkload.id"))
        view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id, account=identity.sees))
        return await self._plane.blobs.get(translate.result_key_of(view, wanted.path))

    async def _view(
        self, identity: Identity, model_id: ModelId, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        view: ModelView = await self._plane.query(GetModel(model_id=model_id))
        shown = model_translate.model_view(view, await self._pids(), identity.sees)
        return json_response(codec.encode(shown), status, headers)

    async def _pids(self) -> dict[WorkloadId, int | None]:
        return {
            slots.workload_id: slots.pid
            for node in await every_node(self._plane)
            for slots in node.models
            if slots.workload_id is not None
        }
