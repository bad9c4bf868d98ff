"""The application: every facade's routes and our own few, behind one limit and one shape of errors.

What lives here: composition and its order. What does not: sockets (listeners) and any protocol (facades). Middleware is
plain ASGI and there is one of it: every layer is paid by every request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from arcray.core.errors import ArcrayError
from arcray.gateway.express import Endpoint, Express, raw_endpoints
from arcray.gateway.measures import CONTENT_TYPE
from arcray.wire.facade import Facade, FacadeEndpoints
from arcray.wire.limits import BodyLimit
from arcray.wire.problem import install, problem_response

__all__ = ["Probes", "compose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the replica knows of itself.

    Args:
        version: of arcray.
        ready: returns when requests can be served; raises an ``ArcrayError`` that says why not.
        metrics: returns what a scrape is answered with; raises an ``ArcrayError`` to refuse who asks.
    """

    version: str
    ready: Callable[[], Awaitable[None]]
    metrics: Callable[[Request], Awaitable[str]]


def compose(
    facades: Sequence[Facade], endpoints: Sequence[FacadeEndpoints], probes: Probes, *, max_body_bytes: int
) -> ASGIApp:
    """Returns the application.

    Args:
        endpoints: one entry per facade, in the same order.
        max_body_bytes: largest request body.
    """
    described = "\n\n".join(f"**{facade.name}**: {facade.summary}" for facade in facades)
    app = FastAPI(title="arcray", version=probes.version, description=described)
    install(app)
    _add_own(app, facades, probes)
    fast: dict[tuple[str, str], Endpoint] = {}
    for each in endpoints:
        if each.router is not None:
            app.include_router(each.router)
            fast |= raw_endpoints(each.router.routes)
    return BodyLimit(Express(app, fast), max_body_bytes)


def _add_own(app: FastAPI, facades: Sequence[Facade], probes: Probes) -> None:
    """Adds what every replica answers whatever it serves. First, because routes are tried in order."""

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

    @app.get("/metrics", tags=["arcray"], summary="How long is every queue?", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        return PlainTextResponse(await probes.metrics(request), media_type=CONTENT_TYPE)


def _unready(error: ArcrayError, request: Request) -> Response:
    # Whatever the reason, a probe wants 503.
    return problem_response(error, instance=request.url.path, status=503)
