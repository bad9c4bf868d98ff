"""A client that floods its WebSocket holds up nobody, and is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

if TYPE_CHECKING:
    from tests.probe_gateway import ProbeGateway

UPGRADE = (
    b"GET /collect HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT = Frame(Opcode.TEXT, b"x").serialize(mask=True)
PING = Frame(Opcode.PING, b"").serialize(mask=True)


@asynccontextmanager
async def connected(gateway: ProbeGateway, path: str, **settings: Any) -> AsyncIterator[ClientConnection]:
    async with (
        asyncio.timeout(20),
        gateway.listening(**settings) as listener,
        connect(f"ws://127.0.0.1:{listener.port}{path}", ping_interval=None) as socket,
    ):
        yield socket


async def read(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for _ in range(100):
        writer.write(data)
        await writer.drain()


async def closed(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as found:
        await read(socket)
    assert found.value.rcvd is not None
    return found.value.rcvd.code, found.value.rcvd.reason


@pytest.mark.parametrize("frame", [TEXT, PING], ids=["text", "ping"])
async def test_a_flood_is_closed_with_1008_and_others_are_served_meanwhile(gateway: ProbeGateway, frame: bytes) -> None:
    async with (
        asyncio.timeout(20),
        gateway.listening(ws_frames_per_s=1_000) as listener,
        connect(f"ws://127.0.0.1:{listener.port}/collect", ping_interval=None) as flood,
        connect(f"ws://127.0.0.1:{listener.port}/collect") as other,
        httpx.AsyncClient() as http,
    ):
        began_s = asyncio.get_running_loop().time()
        flood.transport.write(frame * 100_000)
        assert (await http.get(f"http://127.0.0.1:{listener.port}/healthz")).status_code == 200
        assert gateway.messages < 100_000  # it was answered between two portions
        await other.send("end")
        assert await other.recv() == "0"
        code, reason = await closed(flood)
        assert (code, reason) == (1008, "more frames than the 1000 a second of gateway.ws_frames_per_s")
        took_s = asyncio.get_running_loop().time() - began_s
        assert gateway.messages <= 5_000 + 1_000 * took_s  # so many at once, and so many a second
        assert listener.floods == 1


async def test_what_comes_at_once_is_handed_on_in_order_and_whole(gateway: ProbeGateway) -> None:
    async with connected(gateway, "/collect", ws_frames_per_s=0) as socket:
        socket.transport.write(TEXT * 20_000 + PING * 1_000 + Frame(Opcode.TEXT, b"end").serialize(mask=True))
        assert await socket.recv() == "20000"


async def test_fragments_are_one_message(gateway: ProbeGateway) -> None:
    async with connected(gateway, "/echo") as socket:
        await socket.send(["", "a", "", "b" * 70_000, "c"])
        assert await socket.recv() == "a" + "b" * 70_000 + "c"


async def test_a_client_that_pings_without_end_and_reads_nothing_is_given_up(gateway: ProbeGateway) -> None:
    """Waits for two looks at the connections, a second apart."""
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    async with asyncio.timeout(20), gateway.listening(ws_frames_per_s=0, write_timeout_s=0.1) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionError):
            await send(writer, ping * 10_000)


async def test_a_close_that_waits_behind_messages_is_found_after_the_applications_own(gateway: ProbeGateway) -> None:
    """Otherwise the connection ends when uvicorn has waited 10 s for it, which the time-out is shorter than."""
    async with asyncio.timeout(5), gateway.listening(ws_frames_per_s=0) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(UPGRADE.replace(b"/collect", b"/leave"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(TEXT * 1_000 + Frame(Opcode.CLOSE, b"").serialize(mask=True))
        assert await reader.read() == Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
        writer.close()


async def test_what_is_written_at_once_comes_whole_and_in_order_until_the_client_is_behind(
    gateway: ProbeGateway,
) -> None:
    async with connected(gateway, "/pour") as socket:
        found = [frame async for frame in socket]
    count = int(found.pop())
    assert count > 1
    assert [str(frame).split()[0] for frame in found] == [str(number) for number in range(count)]
    assert {len(str(frame).split()[1]) for frame in found} == {10_000}
    assert socket.close_code == 1000
