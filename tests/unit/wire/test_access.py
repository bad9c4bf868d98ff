"""A door keeps out who may not, tells the endpoint who came, and says in the documentation what it asks for."""

from __future__ import annotations

from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Query
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from arcray.config import AuthSettings
from arcray.core.keys import Scope
from arcray.testing.clock import FakeClock
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.wire import problem
from arcray.wire.access import Door, has_door, identity_of, public, scope_of
from arcray.wire.event_hub import EventHub
from arcray.wire.identity import Authenticator

KEYS = AuthSettings(mode="keys", keys={"ana": "k-ana", "bo": "k-bo"}, scopes={"bo": Scope.READ})


def an_app(cluster: InProcessPlane) -> FastAPI:
    async def mine(request: Request, times: Annotated[int, Query(ge=1)] = 1) -> Response:
        """Says your name."""
        return PlainTextResponse(identity_of(request).name * times)

    async def bare(word: str) -> Response:
        return PlainTextResponse(word)

    clock = FakeClock()
    door = Door(Authenticator(KEYS, cluster.plane, EventHub(cluster.plane, clock), clock))
    app = FastAPI()
    problem.install(app)
    app.add_api_route("/mine", door(Scope.SUBMIT, mine), response_class=Response)
    app.add_api_route("/bare", door(Scope.READ, bare), response_class=Response)
    return app


async def ask(path: str, key: str = "") -> httpx.Response:
    async with in_process_plane(nodes=[]) as cluster:
        transport = httpx.ASGITransport(an_app(cluster))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})


@pytest.mark.parametrize(
    ("path", "key", "status", "text"),
    [
        ("/mine", "k-ana", 200, "ana"),
        ("/mine?times=2", "k-ana", 200, "anaana"),
        ("/mine?times=0", "k-ana", 400, ""),
        ("/mine", "k-bo", 403, ""),
        ("/mine", "", 401, ""),
        ("/mine", "nobody's", 401, ""),
        ("/bare?word=x", "k-bo", 200, "x"),
        ("/bare", "k-bo", 400, ""),
    ],
)
async def test_who_may_comes_in_with_what_they_ask(path: str, key: str, status: int, text: str) -> None:
    answer = await ask(path, key)
    assert answer.status_code == status
    assert text in answer.text


async def test_the_documentation_says_what_a_door_asks_for() -> None:
    described = (await ask("/openapi.json")).json()["paths"]
    assert described["/mine"]["get"]["description"] == "Says your name.\n\nNeeds scope `submit`."
    assert [parameter["name"] for parameter in described["/bare"]["get"]["parameters"]] == ["word"]


def test_a_public_endpoint_says_so_and_one_that_says_nothing_does_not() -> None:
    @public
    async def meant() -> None: ...

    async def forgotten() -> None: ...

    assert (has_door(meant), scope_of(meant)) == (True, None)
    assert not has_door(forgotten)
