"""``/docs`` and ``/redoc``: the framework's pages, with scripts and styles from this machine.

The framework's own pages load them from a public server, and are blank where there is no way to it. ``fastapi_offline``
carries the same files; only its files are used.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

__all__ = ["add_documentation"]

_SCRIPT, _STYLE, _REDOC, _ICON = _ASSETS = (
    "swagger-ui-bundle.js",
    "swagger-ui.css",
    "redoc.standalone.js",
    "favicon.png",
)


def add_documentation(app: FastAPI) -> None:
    """Adds the pages and what they load to an application without any."""

    async def docs(request: Request) -> HTMLResponse:
        root = _root(request)
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{root}/docs/{_SCRIPT}",
            swagger_css_url=f"{root}/docs/{_STYLE}",
            swagger_favicon_url=f"{root}/docs/{_ICON}",
        )

    async def redoc(request: Request) -> HTMLResponse:
        root = _root(request)
        return get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{root}/docs/{_REDOC}",
            redoc_favicon_url=f"{root}/docs/{_ICON}",
            with_google_fonts=False,
        )

    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/redoc", redoc, methods=["GET"], include_in_schema=False)
    directory = StaticFiles(directory=str(files("fastapi_offline") / "static"))
    for name in _ASSETS:  # by name, so that nothing else of the directory is served, whatever a later release has in it
        app.add_route(f"/docs/{name}", _asset(directory, name), include_in_schema=False)


def _asset(directory: StaticFiles, name: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def send(request: Request) -> Response:
        return await directory.get_response(name, request.scope)

    return send


def _root(request: Request) -> str:
    """Returns what a proxy has put in front of every path."""
    return str(request.scope.get("root_path", "")).rstrip("/")
