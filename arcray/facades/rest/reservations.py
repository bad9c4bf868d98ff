"""The routes of reservations. Thin: reads the request, asks the plane, writes the answer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.commands import ReleaseReservation
from arcray.core.errors import ArcrayError
from arcray.core.ids import ReservationId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.queries import PAGE_LIMIT, GetReservation, ListReservations, ReservationPage
from arcray.core.reservation import Reservation, ReservationState
from arcray.facades.rest import codec
from arcray.facades.rest import messages as m
from arcray.facades.rest import translate_reservations as translate
from arcray.wire.access import Door, identity_of
from arcray.wire.asking import ask
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import idempotency, json_answer, json_body, json_response, problems, schema_of

__all__ = ["ReservationRoutes"]

_PATH: Final = "/api/v1/reservations"
_EXAMPLE: Final = {"demand": {"cpu": 8, "memoryMb": 65536, "gpus": 4}, "kind": "container", "ttlS": 600}

_Id: TypeAlias = Annotated[str, Path(alias="id", description="its UUID")]


class ReservationRoutes:
    """The routes over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self._plane = context.plane

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        one = json_answer("The reservation.", schema_of(m.ReservationView))
        page = json_answer("One page, newest first.", schema_of(m.ReservationsView))
        door = Door(self._context.authenticator)
        add = partial(router.add_api_route, tags=["reservations"], response_class=Response)
        add(
            _PATH,
            door(Scope.SUBMIT, self.create),
            methods=["POST"],
            summary="Hold slices of nodes without a workload",
            status_code=201,
            openapi_extra=json_body(schema_of(m.ReservationBody), _EXAMPLE),
            responses={201: one, **problems(400, 401, 403, 404, 409, 413, 422, 429, 503)},
        )
        add(
            _PATH,
            door(Scope.READ, self.index),
            methods=["GET"],
            summary="List reservations",
            responses={200: page, **problems(400, 401, 403)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.READ, self.get),
            methods=["GET"],
            summary="Get a reservation",
            responses={200: one, **problems(400, 401, 403, 404)},
        )
        add(
            f"{_PATH}/{{id}}",
            door(Scope.SUBMIT, self.release),
            methods=["DELETE"],
            summary="Give back what is left of a reservation",
            responses={200: one, **problems(400, 401, 403, 404)},
        )

    async def create(self, request: Request) -> Response:
        """Holds all slices, or refuses what does not fit now. With an `Idempotency-Key` it is safe to send again."""
        identity = identity_of(request)
        raw = await request.body()
        body = codec.decode_reservation(raw)
        key, digest = idempotency(request, raw)
        reservation_id = translate.reservation_id_of(identity.account, key, self._context.ids.new())
        command = translate.reserve_of(body, reservation_id, identity.account, digest)
        try:
            held: Reservation = await ask(self._plane, command)
        except ArcrayError as error:
            raise translate.blamed(body, error) from None
        return _view(held, 201, {"Location": f"{_PATH}/{reservation_id}"})

    async def index(
        self,
        request: Request,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Lists reservations, newest first: all active ones and the newest that ended."""
        identity = identity_of(request)
        query = ListReservations(account=identity.sees, limit=limit, offset=offset)
        page: ReservationPage = await self._plane.query(query)
        views = [translate.reservation_view(held) for held in page.reservations]
        body = m.ReservationsView(reservations=views, total=page.total, limit=limit, offset=offset)
        return json_response(codec.encode(body))

    async def get(self, request: Request, reservation_id: _Id) -> Response:
        """Returns a reservation, ended ones too."""
        identity = identity_of(request)
        query = GetReservation(reservation_id=_parsed(reservation_id), account=identity.sees)
        return _view(await self._plane.query(query))

    async def release(self, request: Request, reservation_id: _Id) -> Response:
        """Gives back what is left; a reservation that has ended stays as it is."""
        identity = identity_of(request)
        query = GetReservation(reservation_id=_parsed(reservation_id), account=identity.sees)
        known: Reservation = await self._plane.query(query)  # the rows remember what the scheduler has let go of
        if known.state is not ReservationState.ACTIVE:
            return _view(known)
        command = ReleaseReservation(reservation_id=known.id, account=identity.sees)
        return _view(await ask(self._plane, command))


def _parsed(reservation_id: str) -> ReservationId:
    return ReservationId(canonical_uuid(reservation_id))


def _view(reservation: Reservation, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_response(codec.encode(translate.reservation_view(reservation)), status, headers)
