"""A command line whose server is made of routes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner, Result

from arcray.cli.context import Context
from arcray.cli.main import arcray
from arcray.client import Client

Routes = dict[str, Any]


URL = "http://127.0.0.1:8080"


class Shell:
    """Types commands at a server made of routes: ``METHOD path`` to a body, text, bytes, an httpx.Response or
    what makes one of these from the request."""

    def __init__(self, directory: Path, routes: Routes) -> None:
        self.requests: list[httpx.Request] = []
        self.clients: list[tuple[str, str | None]] = []
        self._directory = directory
        self._routes = routes

    def __call__(self, *words: str) -> Result:
        context = Context(url=URL, state_dir=self._directory, connect=self._connect)
        return CliRunner().invoke(arcray, list(words), obj=context)

    def _connect(self, url: str, api_key: str | None) -> Client:
        self.clients.append((url, api_key))
        return Client(url, api_key, transport=httpx.MockTransport(self._answer), sleep=lambda _seconds: None)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        body = self._routes.get(f"{request.method} {request.url.path}")
        body = body(request) if callable(body) else body
        match body:
            case None:
                return httpx.Response(404, json={"code": "NOT_FOUND", "detail": f"no {request.url.path}"})
            case httpx.Response():
                return body
            case bytes():
                return httpx.Response(200, content=body)
            case str():
                return httpx.Response(200, text=body)
            case _:
                return httpx.Response(200, json=body)

    def sent(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.requests[0].content)
        return body


MakeShell = Callable[[Routes], Shell]
