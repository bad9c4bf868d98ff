from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.core.node import LeaseTerms
from arcray.gateway.asgi import Probes, compose
from arcray.wire.facade import Facade, FacadeEndpoints

if TYPE_CHECKING:
    from tests.probe_gateway import ProbeGateway


@pytest.fixture
async def http(gateway: ProbeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_a_replica_says_that_it_lives_and_what_it_is(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/version")).json() == {"version": "1.2.3", "facades": ["probe"]}


@pytest.mark.parametrize("nested", [False, True])
def test_a_route_that_does_not_say_who_may_reach_it_is_not_served(*, nested: bool) -> None:
    async def endpoint() -> Response:
        raise AssertionError("never served")

    router, outer = APIRouter(), APIRouter()
    router.add_api_route("/forgotten", endpoint)
    outer.include_router(router)
    lease = LeaseTerms(unhealthy_after_s=1, lost_after_s=2)
    facade = Facade(name="probe", summary="", lease=lease, open=lambda _: FacadeEndpoints())
    served = FacadeEndpoints(router=outer if nested else router)
    with pytest.raises(InvalidArgumentError, match="probe serves /forgotten"):
        compose([facade], [served], Probes(version="0", ready=unasked, metrics=unscraped), max_body_bytes=1)


async def unscraped(_request: Request) -> Response:
    raise AssertionError("nothing is served")


async def unasked() -> None:
    raise AssertionError("nothing is served")


async def test_a_replica_is_ready_when_the_scheduler_is(http: httpx.AsyncClient, gateway: ProbeGateway) -> None:
    assert (await http.get("/readyz")).status_code == 200
    gateway.unready = UnavailableError("the scheduler does not serve yet: the disk is full")
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert "the disk is full" in answer.json()["error"]


async def test_a_replica_answers_scrapes(http: httpx.AsyncClient) -> None:
    assert (await http.get("/metrics")).text == "asked_for /metrics\n"


async def test_the_documentation_names_the_routes_of_the_facades(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    assert {"/raw", "/framed", "/healthz", "/readyz", "/version"} <= described["paths"].keys()
    assert "Routes for tests" in described["info"]["description"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_loads_nothing_from_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    page = (await http.get(path)).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(name.endswith(".js") for name in loaded)
    assert "/openapi.json" in page
    for name in loaded:
        answer = await http.get(name)
        assert (name[0], answer.status_code, bool(answer.content)) == ("/", 200, True), name


@pytest.mark.parametrize("body", ["hello", "refuse", "break"])
async def test_the_express_lane_answers_as_the_framework_does(http: httpx.AsyncClient, body: str) -> None:
    express, framed = await http.post("/raw", content=body), await http.post("/framed", content=body)
    assert express.status_code == framed.status_code
    assert express.text.replace("/raw", "/framed") == framed.text
    assert express.headers["content-type"] == framed.headers["content-type"]


@pytest.mark.parametrize("path", ["/raw", "/framed"])
async def test_a_body_that_comes_in_pieces_is_read_whole(http: httpx.AsyncClient, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one, ", b"two, ", b"three"):
            yield piece

    assert (await http.post(path, content=pieces())).text == "one, two, three"


async def test_a_client_that_goes_before_its_body_came_gets_no_answer_and_makes_no_error(gateway: ProbeGateway) -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def answered(_message: Message) -> None:
        raise AssertionError("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": "/raw", "headers": [], "query_string": b""}
    await gateway.app(scope, gone, answered)


async def test_a_refusal_is_a_problem_document(http: httpx.AsyncClient) -> None:
    answer = await http.post("/raw", content="refuse")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["field"]) == ("CONFLICT", "name")


async def test_an_unexpected_exception_shows_nothing_of_itself(http: httpx.AsyncClient) -> None:
    answer = await http.post("/raw", content="break")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["code"] == "INTERNAL"


async def test_an_unexpected_exception_reaches_the_log_of_the_server(gateway: ProbeGateway) -> None:
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        with pytest.raises(ZeroDivisionError):
            await client.post("/raw", content="break")


async def test_a_raw_route_with_a_parameter_and_another_method_go_through_the_framework(
    http: httpx.AsyncClient,
) -> None:
    assert (await http.post("/raw/x", content="hello")).text == "hello"
    refused = await http.get("/raw")
    assert refused.status_code == 405
    assert refused.json()["code"] == "INVALID_ARGUMENT"


async def test_an_unknown_path_is_a_problem_document(http: httpx.AsyncClient) -> None:
    answer = await http.get("/nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/raw", "/framed"])
async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.post(path, content="x" * 1025)).status_code == 413

    async def streamed() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 300

    assert (await http.post(path, content=streamed())).status_code == 413
