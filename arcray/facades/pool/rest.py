"""The four REST routes, their limit, and their errors.

Source: Resource Pool API Documentation, "REST API Endpoints", "REST API Errors", "Rate Limits".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.errors import ArcrayError, Code, InvalidArgumentError, ResourceExhaustedError
from arcray.core.keys import Scope
from arcray.facades.pool.codec import device_members, pool_members, status_members
from arcray.facades.pool.links import PoolLinks
from arcray.facades.pool.messages import Device
from arcray.facades.pool.rates import SlidingWindow
from arcray.wire.access import Door
from arcray.wire.facade import FacadeContext
from arcray.wire.problem import problem_response
from arcray.wire.routes import RawRoute, json_response
from arcray.wire.strict_json import dumps

__all__ = ["WORDS", "PoolRest"]

WORDS: Final[Mapping[Code, str]] = {
    Code.INVALID_ARGUMENT: "INVALID_REQUEST",
    Code.UNAUTHENTICATED: "INVALID_REQUEST",
    Code.PERMISSION_DENIED: "INVALID_REQUEST",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.ALREADY_EXISTS: "INVALID_REQUEST",
    Code.CONFLICT: "INVALID_REQUEST",
    Code.IDEMPOTENCY_MISMATCH: "INVALID_REQUEST",
    Code.STALE_REPORT: "INVALID_REQUEST",
    Code.INSUFFICIENT_CREDITS: "INVALID_REQUEST",
    Code.RESOURCE_EXHAUSTED: "RATE_LIMITED",
    Code.NO_CANDIDATES: "UNAVAILABLE",
    Code.DEADLINE_EXCEEDED: "UNAVAILABLE",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.UNSUPPORTED: "INVALID_REQUEST",
    Code.INTERNAL: "INTERNAL_ERROR",
}
"""The protocol's word for every code; total, and tested to be."""

_OTHER_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
_METHOD_NOT_ALLOWED: Final = 405


class PoolRest:
    """The routes over one process's devices and the cluster's nodes."""

    def __init__(self, context: FacadeContext, links: PoolLinks) -> None:
        self._clock = context.clock
        self._links = links
        self._since_s = context.clock.monotonic()
        self._window = SlidingWindow(context.settings.pool.requests_per_minute)
        self._door = Door(context.authenticator)

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        bodies: dict[str, tuple[str, Callable[[Sequence[Device]], Mapping[str, Any]]]] = {
            "/": ("Is the pool there, and how many devices has it?", lambda devices: status_members(len(devices))),
            "/api/devices": ("Which devices are there?", _devices),
            "/api/resources": ("What do they have together?", lambda devices: {"pool": pool_members(devices)}),
            "/api/stats": ("What do they have, and since when?", self._stats),
        }
        for path, (summary, body) in bodies.items():
            route = RawRoute(
                path,
                self._door(Scope.READ, self._answer(body)),
                methods=["GET"],
                tags=["pool"],
                summary=summary,
                responses={429: {"description": "Too many requests of this address."}},
            )
            router.routes.append(route)
            refusal = RawRoute(
                path, self._door(Scope.READ, _refuse_method), methods=list(_OTHER_METHODS), include_in_schema=False
            )
            router.routes.append(refusal)

    def _answer(
        self, body: Callable[[Sequence[Device]], Mapping[str, Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            address = request.client.host if request.client is not None else ""
            wait_s = self._window.take(address, self._clock.monotonic())
            if wait_s is not None:
                error = ResourceExhaustedError("too many requests of this address; wait, then go on")
                return _refused(request, error, headers={"Retry-After": str(max(1, ceil(wait_s)))})
            try:
                devices = await self._links.listing()
            except ArcrayError as error:
                return _refused(request, error)
            return json_response(dumps(body(devices)))

        return answer

    def _stats(self, devices: Sequence[Device]) -> Mapping[str, Any]:
        return {
            "devices": len(devices),
            "resources": pool_members(devices),
            "uptime": int(self._clock.monotonic() - self._since_s),
        }


def _devices(devices: Sequence[Device]) -> Mapping[str, Any]:
    return {"devices": [device_members(device) for device in devices]}


async def _refuse_method(request: Request) -> Response:
    """Refuses what is not read."""
    error = InvalidArgumentError(f"{request.method} is not allowed here", field="method")
    return _refused(request, error, status=_METHOD_NOT_ALLOWED, headers={"Allow": "GET"})


def _refused(
    request: Request, error: ArcrayError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    return problem_response(error, instance=request.url.path, status=status, headers=headers, code=WORDS[error.code])
