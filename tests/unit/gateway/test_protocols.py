from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from arcray.gateway.protocols import WebSocketProtocol

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PING = Frame(Opcode.PING, b"").serialize(mask=True)
PONG = Frame(Opcode.PONG, b"").serialize(mask=False)


class Line(asyncio.Transport):
    """Keeps what is written, and whether it would read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading.clear()

    def resume_reading(self) -> None:
        self.reading.set()

    def is_closing(self) -> bool:
        return False


async def test_a_client_that_does_not_read_its_answers_is_not_read_either() -> None:
    accepted = asyncio.Event()

    async def accepting(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set()
        await receive()

    config = uvicorn.Config(accepting, log_config=None, ws_ping_interval=None, proxy_headers=False)
    config.load()
    protocol = WebSocketProtocol(
        config=config, server_state=ServerState(), app_state={}, frames_per_s=0, on_flood=lambda: None
    )
    line = Line()
    protocol.connection_made(line)
    protocol.data_received(UPGRADE)
    await accepted.wait()
    protocol.pause_writing()
    protocol.data_received(PING * 1_000)
    assert not line.reading.is_set()
    answered = line.written.count(PONG)
    await asyncio.sleep(0)
    assert line.written.count(PONG) == answered < 1_000
    protocol.resume_writing()
    await line.reading.wait()
    assert line.written.count(PONG) == 1_000
