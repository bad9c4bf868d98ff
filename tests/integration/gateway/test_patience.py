"""Nobody holds a connection for nothing: every wait for a client ends.

Each waits for the next look at the connections, a second at the most.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

if TYPE_CHECKING:
    from tests.probe_gateway import ProbeGateway

QUICK = {"header_timeout_s": 0.1, "body_timeout_s": 0.1, "write_timeout_s": 0.1}
HEADERS = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connected(
    gateway: ProbeGateway, **settings: Any
) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return gateway.connected(15, **QUICK | settings)


def refusal(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    found: dict[str, Any] = json.loads(body)
    return found


async def test_a_client_that_says_nothing_is_left(gateway: ProbeGateway) -> None:
    async with connected(gateway) as (reader, _):
        assert await reader.read() == b""


@pytest.mark.parametrize("begin", [b"GET", HEADERS % b"/raw", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /he"])
async def test_headers_that_do_not_end_are_refused(gateway: ProbeGateway, begin: bytes) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(begin)
        answer = await reader.read()
        refused = refusal(answer[answer.index(b"HTTP/1.1 408") :])
        assert (refused["field"], refused["status"]) == ("headers", 408)
        assert "gateway.header_timeout_s" in refused["error"]


@pytest.mark.parametrize("path", [b"/raw", b"/framed"])
@pytest.mark.parametrize("length", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
async def test_a_body_that_does_not_end_is_refused_without_a_traceback(
    gateway: ProbeGateway, path: bytes, length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(HEADERS % path + length)
        refused = refusal(await reader.read())
        assert (refused["field"], refused["status"]) == ("body", 408)
        assert "gateway.body_timeout_s" in refused["error"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_body_may_take_as_long_as_its_rate_allows(gateway: ProbeGateway) -> None:
    async with connected(gateway, body_bytes_per_s=1) as (reader, writer):
        writer.write(HEADERS % b"/raw" + b"Content-Length: 100\r\nConnection: close\r\n\r\n")
        slow, hung = await asyncio.open_connection("127.0.0.1", writer.get_extra_info("peername")[1])
        writer.write(b"x" * 99)
        await slow.read()  # a silent one is over its time meanwhile
        hung.close()
        writer.write(b"x")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_a_connection_is_closed_between_two_requests(gateway: ProbeGateway) -> None:
    async with connected(gateway, idle_timeout_s=1) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_takes_its_time_is_not_the_fault_of_its_client(gateway: ProbeGateway) -> None:
    async with connected(gateway) as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        silent, other = await asyncio.open_connection("127.0.0.1", writer.get_extra_info("peername")[1])
        await silent.read()
        other.close()
        gateway.release.set()
        assert (await reader.read()).endswith(b"done")


async def test_a_client_that_does_not_read_is_left(gateway: ProbeGateway) -> None:
    async with connected(gateway) as (_, writer):
        writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await gateway.released.wait()


async def test_a_websocket_that_is_not_opened_is_left(gateway: ProbeGateway, caplog: pytest.LogCaptureFixture) -> None:
    async with gateway.listening(**QUICK) as listener, asyncio.timeout(15):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{listener.port}/shut")
        assert refused.value.response.status_code == 503
        assert b"gateway.header_timeout_s" in refused.value.response.body
        await gateway.released.wait()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_connection_over_the_limit_is_refused_by_a_problem_document(gateway: ProbeGateway) -> None:
    async with gateway.listening(max_connections=1) as listener, httpx.AsyncClient() as http, asyncio.timeout(10):
        answer = await http.get(f"http://127.0.0.1:{listener.port}/healthz")
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert "gateway.max_connections" in answer.json()["error"]


async def test_text_that_is_no_utf8_closes_its_socket_and_is_no_news(
    gateway: ProbeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        asyncio.timeout(10),
        gateway.listening() as listener,
        connect(f"ws://127.0.0.1:{listener.port}/echo") as socket,
    ):
        socket.transport.write(Frame(Opcode.TEXT, b"\xff").serialize(mask=True))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
