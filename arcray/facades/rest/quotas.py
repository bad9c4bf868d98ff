"""The routes of quotas. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import SetQuota
from arcray.core.errors import NotFoundError
from arcray.core.ids import AccountId
from arcray.core.keys import Scope
from arcray.core.queries import PAGE_LIMIT, GetQuota, ListQuotas, QuotaPage, QuotaView
from arcray.core.quota import Quota
from arcray.facades.rest import codec, operation_translate
from arcray.facades.rest import operation_messages as om
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import json_answer, json_body, json_response, problems, schema_of

__all__ = ["QuotaRoutes"]

_PATH: Final = "/api/v1/quotas"

_Account: TypeAlias = Annotated[str, Path(max_length=256, description="its name")]


class QuotaRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The quota, and what is held of it.", schema_of(om.QuotaView))
        page = json_answer("One page, sorted by account.", schema_of(om.QuotasView))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["quotas"], response_class=Response)
        add(
            _PATH,
            door(Scope.OPERATOR, self.index),
            methods=["GET"],
            summary="List quotas",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/{{account}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get the quota of an account",
            responses={200: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{account}}",
            door(Scope.OPERATOR, self.put),
            methods=["PUT"],
            summary="Give an account a quota of its own",
            openapi_extra=json_body(schema_of(om.QuotaBody), {"gpus": 8, "pending": 1000}),
            responses={200: one, **problems(400, 401, 403, 503)},
        )
        add(
            f"{_PATH}/{{account}}",
            door(Scope.OPERATOR, self.delete),
            methods=["DELETE"],
            summary="Give an account the default again",
            responses={200: one, **problems(400, 401, 403, 503)},
        )

    async def index(
        self,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists accounts that have a quota of their own or hold something."""
        page: QuotaPage = await self._plane.query(ListQuotas(limit=limit, offset=offset))
        views = [operation_translate.quota_view(view) for view in page.quotas]
        return json_response(codec.encode(om.QuotasView(quotas=views, total=page.total, limit=limit, offset=offset)))

    async def get(self, request: Request, account: _Account) -> Response:
        """Returns what an account may hold and holds; its own account's is for everyone to see."""
        identity = identity_of(request)
        if identity.sees not in (None, account):
            raise NotFoundError(f"no account {account}", field="account")
        return await self._view(AccountId(account))

    async def put(self, request: Request, account: _Account) -> Response:
        """Replaces the quota; what is held already stays, and what waits may start where it fits now."""
        body = codec.decode(om.QuotaBody, await request.body())
        return await self._set(AccountId(account), operation_translate.quota_of(body))

    async def delete(self, account: _Account) -> Response:
        """Gives an account the default quota again."""
        return await self._set(AccountId(account), None)

    async def _set(self, account: AccountId, quota: Quota | None) -> Response:
        await ask(self._plane, SetQuota(account=account, quota=quota))
        return await self._view(account)

    async def _view(self, account: AccountId) -> Response:
        view: QuotaView = await self._plane.query(GetQuota(account=account))
        return json_response(codec.encode(operation_translate.quota_view(view)))
