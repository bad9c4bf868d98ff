"""Routes that decode their own bodies are routed, documented and refused like any other."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.wire import problem
from arcray.wire.routes import RawRoute, idempotency, json_body, json_response, problems, schema_of


class Inner(BaseModel):
    """Inside."""

    size: Annotated[int, Field(ge=1)]


class Left(BaseModel):
    """One."""

    kind: str
    inner: list[Inner]


class Right(BaseModel):
    """Other."""

    inner: Inner | None = None


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


async def test_raw_route_is_served_documented_and_its_errors_are_problems() -> None:
    app = FastAPI()
    problem.install(app)

    async def double(request: Request) -> Response:
        body = await request.body()
        if not body:
            raise ConflictError("nothing to double")
        return json_response(body * 2, 201, {"X-Twice": "yes"})

    app.router.add_api_route(
        "/double/{name}",
        double,
        methods=["POST"],
        openapi_extra=json_body({"type": "integer"}, 7),
        responses=problems(400, 409),
        route_class_override=RawRoute,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/double/x", content=b"4")
        assert (answer.status_code, answer.json(), answer.headers["x-twice"]) == (201, 44, "yes")
        refused = await client.post("/double/x")
        assert (refused.status_code, refused.json()["code"]) == (409, "CONFLICT")
        operation = (await client.get("/openapi.json")).json()["paths"]["/double/{name}"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content == {"schema": {"type": "integer"}, "example": 7}
    assert set(operation["responses"]) >= {"400", "409"}


def references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        found = [schema["$ref"]] if "$ref" in schema else []
        return found + [name for value in schema.values() for name in references(value)]
    return [name for item in schema for name in references(item)] if isinstance(schema, list) else []


@pytest.mark.parametrize("wanted", [Left, TypeAdapter(Left | Right)])
def test_schema_stands_alone(wanted: Any) -> None:
    schema = schema_of(wanted)
    assert "$defs" not in schema
    assert references(schema) == []
    left = schema["anyOf"][0] if "anyOf" in schema else schema
    assert left["properties"]["inner"]["items"]["properties"]["size"]["minimum"] == 1


def test_every_status_of_the_table_can_be_documented() -> None:
    assert set(problems(*problem.STATUS.values())) == set(problem.STATUS.values())


def test_idempotency_tells_bodies_apart_only_where_there_is_a_key() -> None:
    assert idempotency(request(), b"x") == ("", "")
    key, digest = idempotency(request(idempotency_key="k"), b"x", fallback="f")
    assert key == "k"
    assert idempotency(request(idempotency_key="k"), b"y")[1] != digest
    assert idempotency(request(), b"x", fallback="f") == ("f", digest)
    with pytest.raises(InvalidArgumentError) as refusal:
        idempotency(request(idempotency_key="k" * 256), b"x")
    assert refusal.value.field == "Idempotency-Key"
