"""A head is bounded before anybody has shown a key, however it comes."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.probe_gateway import ProbeGateway

LIMIT = 64 * 2**10
READ = 256 * 2**10  # the most that the gateway reads at once
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
TRAILED = b"POST /raw HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
UPGRADE = (
    GET.replace(b"/healthz", b"/echo") + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


def refusal(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    found: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % found["status"])
    return found


@pytest.mark.parametrize(
    ("sent", "status", "setting"),
    [
        (GET + b"a: b\r\n" * 256 + b"\r\n", 431, "gateway.max_headers"),
        (UPGRADE + b"a: b\r\n" * 256 + b"\r\n", 431, "gateway.max_headers"),
        (GET + b"a: %b\r\n\r\n" % (b"b" * LIMIT), 431, "gateway.max_header_bytes"),
        (UPGRADE + b"a: %b\r\n\r\n" % (b"b" * LIMIT), 431, "gateway.max_header_bytes"),
        (GET + b"a: b\r\n" * (READ // 3), 431, "gateway.max_header_bytes"),
        (GET + b"a: " + b"b" * 2 * READ, 431, "gateway.max_header_bytes"),
        (b"GET /%b HTTP/1.1\r\n\r\n" % (b"b" * LIMIT), 414, "gateway.max_header_bytes"),
        (b"GET /" + b"b" * 2 * READ, 414, "gateway.max_header_bytes"),
        (TRAILED + b"a: b\r\n" * (READ // 3), 431, "gateway.max_header_bytes"),
        (TRAILED + b"a: " + b"b" * 2 * READ, 431, "gateway.max_header_bytes"),
    ],
    ids=lambda value: f"{value[:5].decode()}-{len(value)}" if isinstance(value, bytes) else None,
)
async def test_a_head_that_is_too_much_is_refused(
    gateway: ProbeGateway, sent: bytes, status: int, setting: str
) -> None:
    async with gateway.connected(10) as (reader, writer):
        writer.write(sent)
        refused = refusal(await reader.read())
        assert (refused["status"], refused["field"]) == (status, "target" if status == 414 else "headers")
        assert setting in refused["error"]


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (UPGRADE + b"a: b\r\n" * 129 + b"\r\n", 431, "128"),
        (UPGRADE + b"a: %b\r\n\r\n" % (b"b" * 9_000), 431, "8192"),
        (UPGRADE.replace(b"/echo", b"/echo?" + b"b" * 9_000) + b"\r\n", 414, "8192"),
        (UPGRADE + b"Content-Length: 1\r\n\r\n1", 400, "body"),
    ],
    ids=["many", "long", "target", "body"],
)
async def test_a_websocket_whose_head_cannot_be_read_is_refused(
    gateway: ProbeGateway, sent: bytes, status: int, reason: str
) -> None:
    async with gateway.connected(10) as (reader, writer):
        writer.write(sent)
        refused = refusal(await reader.read())
        assert (refused["status"], refused["field"]) == (status, "target" if status == 414 else "headers")
        assert reason in refused["error"]


async def test_a_head_within_the_limits_is_taken_however_it_comes(gateway: ProbeGateway) -> None:
    large = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 253 + b"b: %b\r\n" % (b"b" * (LIMIT - 3_000))
    body = b"x" * 1_000
    post = b"POST /raw HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    async with gateway.connected(10) as (reader, writer):
        for part in (large, b"\r\n" + post, body[:500], body[500:] + large, b"Connection: close\r\n\r\n"):
            writer.write(part)
            await writer.drain()
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200 ") == 3, answer


async def test_an_answer_before_is_not_mixed_with_a_refusal(gateway: ProbeGateway) -> None:
    async with gateway.connected(10) as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"a: b\r\n" * 256 + b"\r\n")
        await gateway.entered.wait()
        gateway.release.set()
        answer = await reader.read()
        assert answer.index(b"done") < answer.index(b"HTTP/1.1 431 ")


async def test_trailers_that_are_too_long_end_an_answer_that_has_begun(
    gateway: ProbeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway.connected(10) as (reader, writer):
        writer.write(TRAILED.replace(b"POST /raw", b"GET /endless"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"a: " + b"b" * 2 * READ)
        with suppress(ConnectionError):
            await reader.read()
        await gateway.released.wait()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
