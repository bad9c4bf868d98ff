"""The routes of accounts. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import IssueCredits, OpenAccount, Posted, SetSpendingLimit, TransferCredits
from arcray.core.errors import NotFoundError
from arcray.core.ids import AccountId, EntryId
from arcray.core.keys import Scope
from arcray.core.ledger import AccountView
from arcray.core.queries import PAGE_LIMIT, AccountPage, GetAccount, GetStatement, ListAccounts, Statement
from arcray.facades.rest import account_messages as m
from arcray.facades.rest import account_translate as translate
from arcray.facades.rest import codec
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import idempotency, json_answer, json_body, json_response, problems, schema_of

__all__ = ["AccountRoutes"]

_PATH: Final = "/api/v1/accounts"

_Id: TypeAlias = Annotated[str, Path(alias="id", description="its name")]


class AccountRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The account.", schema_of(m.AccountMessage))
        entry = json_answer("The entry.", schema_of(m.EntryMessage))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["accounts"], response_class=Response)
        add(
            _PATH,
            door(Scope.ADMIN, self.create),
            methods=["POST"],
            summary="Open an account",
            status_code=201,
            openapi_extra=json_body(schema_of(m.AccountBody), {"id": "ana"}),
            responses={200: one, 201: one, **problems(400, 401, 403, 409)},
        )
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List accounts",
            responses={
                200: json_answer("One page, in order of opening.", schema_of(m.AccountsMessage)),
                **problems(400, 401, 403),
            },
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get an account",
            responses={200: one, **problems(401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/balance",
            door(Scope.READ, self.balance),
            methods=["GET"],
            summary="Get what an account has",
            responses={200: json_answer("Its credits.", schema_of(m.BalanceMessage)), **problems(401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/limit",
            door(Scope.ADMIN, self.limit),
            methods=["PUT"],
            summary="Set or lift a spending limit",
            openapi_extra=json_body(schema_of(m.LimitBody), {"limit": {"credits": 1000, "periodS": 86_400}}),
            responses={200: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}/deposit",
            door(Scope.ADMIN, self.deposit),
            methods=["POST"],
            summary="Issue credits to an account",
            status_code=201,
            openapi_extra=json_body(schema_of(m.DepositBody), {"credits": 1000}),
            responses={200: entry, 201: entry, **problems(400, 401, 403, 404, 422)},
        )
        add(
            f"{_PATH}/{{id}}/transfer",
            door(Scope.SUBMIT, self.transfer),
            methods=["POST"],
            summary="Give credits to another account",
            status_code=201,
            openapi_extra=json_body(schema_of(m.TransferBody), {"to": "bo", "credits": 10}),
            responses={200: entry, 201: entry, **problems(400, 401, 402, 403, 404, 422)},
        )
        add(
            f"{_PATH}/{{id}}/statement",
            door(Scope.READ, self.statement),
            methods=["GET"],
            summary="Read what was posted to an account",
            responses={
                200: json_answer("One page, newest first.", schema_of(m.StatementMessage)),
                **problems(400, 401, 403, 404),
            },
        )

    async def create(self, request: Request) -> Response:
        """Opens an account; the same again changes nothing (200), other terms under its name are refused (409)."""
        wanted = codec.decode(m.AccountBody, await request.body())
        account_id = AccountId(wanted.id)
        try:
            await self._plane.query(GetAccount(account_id=account_id))
        except NotFoundError:
            status = 201  # as for all who open it at the same time
        else:
            status = 200
        view: AccountView = await ask(
            self._plane,
            OpenAccount(account_id=account_id, limit=translate.limit_of(wanted.limit), overdraft=wanted.overdraft),
        )
        return json_response(codec.encode(translate.account_message(view)), status)

    async def index(
        self,
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists the accounts that the caller may see: all, or its own."""
        query = ListAccounts(account=identity_of(request).sees, limit=limit, offset=offset)
        page: AccountPage = await self._plane.query(query)
        views = [translate.account_message(view) for view in page.accounts]
        return json_response(
            codec.encode(m.AccountsMessage(accounts=views, total=page.total, limit=limit, offset=offset))
        )

    async def get(self, request: Request, account_id: _Id) -> Response:
        """Returns an account with its books."""
        return json_response(codec.encode(translate.account_message(await self._seen(request, account_id))))

    async def balance(self, request: Request, account_id: _Id) -> Response:
        """Returns what an account may spend, and what is set aside for its live work."""
        view = await self._seen(request, account_id)
        return json_response(codec.encode(m.BalanceMessage(available=view.available, held=view.held)))

    async def limit(self, request: Request, account_id: _Id) -> Response:
        """Sets what an account's work may cost in a period; `null` lifts it. A new period begins to be counted."""
        wanted = codec.decode(m.LimitBody, await request.body())
        command = SetSpendingLimit(account_id=AccountId(account_id), limit=translate.limit_of(wanted.limit))
        return json_response(codec.encode(translate.account_message(await ask(self._plane, command))))

    async def deposit(self, request: Request, account_id: _Id) -> Response:
        """Puts credits into an account. With an `Idempotency-Key` it is safe to send again."""
        body = await request.body()
        wanted = codec.decode(m.DepositBody, body)
        key, _ = idempotency(request, body)
        command = IssueCredits(
            id=EntryId(self._context.ids.new()),
            account_id=AccountId(account_id),
            credits=wanted.credits,
            asked_by=identity_of(request).account,
            request_id=key,
            memo=wanted.memo,
        )
        return self._posted(await ask(self._plane, command), account_id)

    async def transfer(self, request: Request, account_id: _Id) -> Response:
        """Gives an account's credits to another. With an `Idempotency-Key` it is safe to send again."""
        identity = identity_of(request)
        # An operator sees every account, and gives away the credits of its own only; an admin those of any.
        if identity.scope is not Scope.ADMIN and identity.account != account_id:
            raise NotFoundError(f"no account {account_id}", field="id")
        body = await request.body()
        wanted = codec.decode(m.TransferBody, body)
        key, _ = idempotency(request, body)
        command = TransferCredits(
            id=EntryId(self._context.ids.new()),
            source=AccountId(account_id),
            target=AccountId(wanted.to),
            credits=wanted.credits,
            asked_by=identity.account,
            request_id=key,
            memo=wanted.memo,
        )
        return self._posted(await ask(self._plane, command), account_id)

    async def statement(
        self,
        request: Request,
        account_id: _Id,
        *,
        cursor: Annotated[str | None, Query(description="the next of an earlier page")] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
    ) -> Response:
        """Returns the postings of an account, newest first; pages stay as they are while new ones are made."""
        query = GetStatement(
            account_id=AccountId(account_id),
            account=identity_of(request).sees,
            before=translate.cursor_of(cursor),
            limit=limit,
        )
        found: Statement = await self._plane.query(query)
        return json_response(codec.encode(translate.statement_message(found)))

    async def _seen(self, request: Request, account_id: str) -> AccountView:
        query = GetAccount(account_id=AccountId(account_id), account=identity_of(request).sees)
        view: AccountView = await self._plane.query(query)
        return view

    def _posted(self, posted: Posted, account_id: str) -> Response:
        message = translate.entry_message(posted.entry, AccountId(account_id))
        return json_response(codec.encode(message), 201 if posted.created else 200)
