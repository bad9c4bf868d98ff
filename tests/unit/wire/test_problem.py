"""Every error leaves as application/problem+json with our code, and never with a traceback."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query, Request

from arcray.core.errors import (
    ArcrayError,
    Code,
    InvalidArgumentError,
    NoCandidatesError,
    UnauthenticatedError,
)
from arcray.wire import problem
from arcray.wire.limits import BodyBound, BodyLimit


def application() -> FastAPI:
    app = FastAPI()
    problem.install(app)

    @app.get("/full")
    async def full() -> None:
        raise NoCandidatesError("none can", details={"explanation": {"nodes": 3}})

    @app.get("/field")
    async def field() -> None:
        raise InvalidArgumentError("must be positive", field="demand.cpu")

    @app.get("/key")
    async def key() -> None:
        raise UnauthenticatedError

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret in the traceback")

    @app.get("/page")
    async def page(limit: Annotated[int, Query(ge=1)]) -> int:
        return limit

    return app


async def get(path: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


def checked(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert {"type", "title", "detail", "error", "code"} <= set(body)
    return body


def test_every_code_has_a_status_and_a_class() -> None:
    assert set(problem.STATUS) == set(Code)
    for code in Code:
        error = next(cls for cls in ArcrayError.__subclasses__() if cls.code is code)()
        members = problem.problem(error)
        assert members["code"] == code
        assert members["error"]


async def test_arcray_error_carries_explanation_and_retry_after() -> None:
    response = await get("/full")
    body = checked(response)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert body["code"] == "NO_CANDIDATES"
    assert body["error"] == "none can"
    assert body["explanation"] == {"nodes": 3}
    assert body["instance"] == "/full"


async def test_field_is_a_member_of_its_own() -> None:
    body = checked(await get("/field"))
    assert body["field"] == "demand.cpu"
    assert body["detail"] == "demand.cpu: must be positive"
    assert body["error"] == "must be positive"


async def test_missing_key_names_the_scheme() -> None:
    response = await get("/key")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


async def test_unexpected_error_shows_no_traceback() -> None:
    response = await get("/broken")
    assert checked(response)["code"] == "INTERNAL"
    assert "secret" not in response.text


@pytest.mark.parametrize("query", ["", "?limit=0", "?limit=x"])
async def test_invalid_parameter_is_400_and_named(query: str) -> None:
    response = await get(f"/page{query}")
    assert response.status_code == 400
    assert checked(response)["field"] == "limit"


async def test_unknown_path_and_method_are_problems_too() -> None:
    unknown = await get("/nowhere")
    assert (unknown.status_code, checked(unknown)["code"]) == (404, "NOT_FOUND")
    method = await get("/full", "DELETE")
    assert (method.status_code, checked(method)["code"]) == (405, "INVALID_ARGUMENT")
    assert method.headers["allow"] == "GET"


async def test_declared_body_over_the_limit_is_413_without_reading_it() -> None:
    response = await post(b"x" * 101)
    assert response.status_code == 413
    assert checked(response)["field"] == "body"
    assert response.headers["connection"] == "close"


async def test_streamed_body_is_counted() -> None:
    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b"y" * 10

    refused = await post(chunks(11))
    assert (refused.status_code, checked(refused)["code"]) == (413, "INVALID_ARGUMENT")
    accepted = await post(chunks(10))
    assert (accepted.status_code, accepted.text) == (200, "100")


async def post(content: Any) -> httpx.Response:
    app = application()
    app.add_middleware(BodyLimit, bound=BodyBound(bytes=100, setting="gateway.max_body_bytes"), tighter={})

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.post("/upload", content=content)
