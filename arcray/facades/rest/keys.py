"""The routes of API keys. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import IssueKey, RevokeKey
from arcray.core.ids import AccountId, KeyId
from arcray.core.keys import KeyView, Scope
from arcray.core.queries import PAGE_LIMIT, KeyPage, ListKeys
from arcray.facades.rest import account_messages as m
from arcray.facades.rest import account_translate as translate
from arcray.facades.rest import codec
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import json_answer, json_body, json_response, problems, schema_of

__all__ = ["KeyRoutes"]

_PATH: Final = "/api/v1/keys"
_EXAMPLE: Final = {"account": "ana", "scope": "submit", "name": "laptop", "expiresInS": 7_776_000}

_Id: TypeAlias = Annotated[str, Path(alias="id", description="its id, not the key")]


class KeyRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["keys"], response_class=Response)
        add(
            _PATH,
            door(Scope.ADMIN, self.create),
            methods=["POST"],
            summary="Issue a key",
            status_code=201,
            openapi_extra=json_body(schema_of(m.KeyBody), _EXAMPLE),
            responses={
                201: json_answer("The key with its secret, shown this once.", schema_of(m.IssuedKeyMessage)),
                **problems(400, 401, 403, 404, 429),
            },
        )
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List keys",
            responses={
                200: json_answer("One page, in order of issue.", schema_of(m.KeysMessage)),
                **problems(400, 401, 403),
            },
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.SUBMIT, self.revoke),
            methods=["DELETE"],
            summary="Revoke a key",
            status_code=204,
            responses={204: {"description": "Worthless from now on."}, **problems(401, 403, 404)},
        )

    async def create(self, request: Request) -> Response:
        """Issues a key. Its secret is in this answer and nowhere else; what is kept is a hash of it."""
        wanted = codec.decode(m.KeyBody, await request.body())
        key, secret = translate.key_of(
            wanted, self._context.ids.new(), secrets.token_bytes(translate.SECRET_BYTES), self._context.clock.now()
        )
        view: KeyView = await ask(self._plane, IssueKey(key=key))
        return json_response(codec.encode(translate.issued_message(view, secret)), 201, {"Cache-Control": "no-store"})

    async def index(
        self,
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists the keys that the caller may see: all, or those of its account."""
        query = ListKeys(account=_manages(request), limit=limit, offset=offset)
        page: KeyPage = await self._plane.query(query)
        views = [translate.key_message(view) for view in page.keys]
        return json_response(codec.encode(m.KeysMessage(keys=views, total=page.total, limit=limit, offset=offset)))

    async def revoke(self, request: Request, key_id: _Id) -> Response:
        """Makes a key worthless, at once and for ever."""
        await ask(self._plane, RevokeKey(key_id=KeyId(key_id), account=_manages(request)))
        self._context.authenticator.forget(KeyId(key_id))
        return Response(status_code=204)


def _manages(request: Request) -> AccountId | None:
    """Returns the account whose keys the caller manages; None is all, for admins only: operators run machines."""
    identity = identity_of(request)
    return None if identity.scope is Scope.ADMIN else identity.account
