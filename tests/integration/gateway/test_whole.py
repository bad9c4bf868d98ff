"""What is written in one piece is what uvicorn would have written in two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from arcray.config import GatewaySettings
from arcray.gateway.listeners import HttpListener
from arcray.gateway.whole import write_whole

REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n"
CLOSING = b"Connection: close\r\n"


async def _pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def _nothing() -> None:
    """Runs after the answer."""


RESPONSES: dict[str, Callable[[], Response]] = {
    "/plain": lambda: Response(b"hello", media_type="application/json"),
    "/text": lambda: PlainTextResponse("héllo", status_code=418, headers={"Location": "/elsewhere"}),
    "/empty": lambda: Response(b""),
    "/none": lambda: Response(status_code=204),
    "/unchanged": lambda: Response(status_code=304),
    "/stream": lambda: StreamingResponse(_pieces()),
    "/later": lambda: Response(b"hello", background=BackgroundTask(_nothing)),
    "/bye": lambda: Response(b"bye", headers={"Connection": "close"}),
    "/split": lambda: Response(b"hello", headers={"X-Split": "a\r\nSet-Cookie: b"}),
}
WHOLE = ("/plain", "/text", "/empty")


class Server:
    """Answers by path: in one piece where ``whole`` and where that can be; counts those."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self.written: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        path = scope["path"]
        response = RESPONSES[path]()
        if self._whole and write_whole(send, response):
            self.written.append(path)
        else:
            await response(scope, receive, send)


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    listener = HttpListener(app, GatewaySettings(drain_s=0.0), 0)
    await listener.start()
    try:
        async with asyncio.timeout(10):
            yield listener.port
    finally:
        await listener.drain()


async def said(port: int, *sent: bytes) -> list[bytes]:
    """Returns the lines of all that is answered on one connection to requests sent at once, dates left out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(sent))
    found = await reader.read(-1)
    writer.close()
    return [line for line in found.split(b"\r\n") if not line.startswith(b"date: ")]


@pytest.mark.parametrize("path", RESPONSES)
async def test_an_answer_is_the_same_in_one_piece(path: str) -> None:
    one, two = Server(whole=True), Server(whole=False)
    async with listening(one) as here, listening(two) as there:
        for sent in (
            [REQUEST % (path.encode(), CLOSING)],
            [REQUEST % (path.encode(), b""), REQUEST % (path.encode(), b""), REQUEST % (b"/plain", CLOSING)],
            [b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n%b\r\nhi" % (path.encode(), CLOSING)],
            [b"HEAD %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), CLOSING)],
            [b"GET %b HTTP/1.0\r\nHost: x\r\n\r\n" % path.encode()],
        ):
            assert await said(here, *sent) == await said(there, *sent)
    # The last of them are answered by a connection that ends, which is uvicorn's to do.
    assert set(one.written) == ({path} if path in WHOLE else set())
    assert two.written == []


async def test_nothing_is_written_while_the_client_does_not_read() -> None:
    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        cycle: Any = getattr(send, "__self__")  # noqa: B009 - mypy knows no such attribute
        cycle.flow.pause_writing()
        assert not write_whole(send, Response(b"at once"))
        cycle.flow.resume_writing()
        await Response(b"waited")(scope, receive, send)

    async with listening(answering) as port:
        assert (await said(port, REQUEST % (b"/", CLOSING)))[-1] == b"waited"


async def test_nothing_is_written_past_a_send_that_is_not_the_connections() -> None:
    async def send(_: Any) -> None:
        raise AssertionError("not asked to")

    assert not write_whole(send, Response(b"hello"))
