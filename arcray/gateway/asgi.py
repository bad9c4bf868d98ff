"""The application: every facade's routes and our own few, behind one limit and one shape of errors.

What lives here: composition and its order. What does not: sockets (listeners) and any protocol (facades). Middleware is
plain ASGI and there is one of it: every layer is paid by every request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.gateway.documentation import add_documentation
from arcray.gateway.express import Endpoint, Express, raw_endpoints
from arcray.wire.access import has_door
from arcray.wire.facade import Facade, FacadeEndpoints
from arcray.wire.limits import BodyBound, BodyLimit
from arcray.wire.problem import install, problem_response

__all__ = ["Probes", "compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the replica knows of itself.

    Args:
        version: of arcray.
        ready: returns when requests can be served; raises an ``ArcrayError`` that says why not.
        metrics: answers a scrape, behind a door of its own.
    """

    version: str
    ready: Callable[[], Awaitable[None]]
    metrics: Endpoint


def compose(
    facades: Sequence[Facade], endpoints: Sequence[FacadeEndpoints], probes: Probes, *, max_body_bytes: int
) -> ASGIApp:
    """Returns the application.

    Args:
        endpoints: one entry per facade, in the same order.
        max_body_bytes: largest request body; facades say where it is less.

    Raises:
        InvalidArgumentError: a route does not say who may reach it; a door that was forgotten stays shut.
    """
    described = "\n\n".join(f"**{facade.name}**: {facade.summary}" for facade in facades)
    app = FastAPI(title="arcray", version=probes.version, description=described, docs_url=None, redoc_url=None)
    install(app)
    _add_own(app, facades, probes)
    add_documentation(app)
    fast: dict[tuple[str, str], Endpoint] = {}
    for facade, each in zip(facades, endpoints, strict=True):
        if each.router is not None:
            _check_doors(facade, each.router)
            app.include_router(each.router)
            fast |= raw_endpoints(each.router.routes)
    bound = BodyBound(bytes=max_body_bytes, setting="gateway.max_body_bytes")
    tighter = {path: own for each in endpoints for path, own in each.bodies.items()}
    return BodyLimit(Express(app, fast), bound, tighter)


def _check_doors(facade: Facade, router: APIRouter) -> None:
    for route in router.routes:
        # An included router has no public name, and keeps the router; a mounted application is an endpoint of its own.
        included = getattr(route, "original_router", None)
        if isinstance(included, APIRouter):
            _check_doors(facade, included)
        elif not has_door(getattr(route, "endpoint", getattr(route, "app", None))):
            path = getattr(route, "path", repr(route))
            raise InvalidArgumentError(
                f"{facade.name} serves {path} without a word on who may reach it", field="facades"
            )


def _add_own(app: FastAPI, facades: Sequence[Facade], probes: Probes) -> None:
    """Adds what every replica answers whatever it serves. First: each route that is tried before costs 0.7 us."""

    @app.get("/healthz", tags=["arcray"], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["arcray"], summary="Can it serve?", response_model=dict[str, str])
    async def readyz(request: Request) -> Any:
        try:
            await probes.ready()
        except ArcrayError as error:
            return _unready(error, request)
        return {"status": "ready"}

    @app.get("/version", tags=["arcray"], summary="What runs here?")
    async def version() -> dict[str, Any]:
        return {"version": probes.version, "facades": [facade.name for facade in facades]}

    app.add_api_route(
        "/metrics",
        probes.metrics,
        methods=["GET"],
        tags=["arcray"],
        summary="How long is every queue?",
        response_class=PlainTextResponse,
    )


def _unready(error: ArcrayError, request: Request) -> Response:
    # Whatever the reason, a probe wants 503.
    return problem_response(error, instance=request.url.path, status=503)
