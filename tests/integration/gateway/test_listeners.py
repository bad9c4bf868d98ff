from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from arcray.config import GatewaySettings
from arcray.core.errors import UnavailableError
from arcray.gateway.listeners import HttpListener, bind

if TYPE_CHECKING:
    from tests.probe_gateway import ProbeGateway


async def test_a_listener_serves_http_and_websocket_on_one_port(gateway: ProbeGateway) -> None:
    async with gateway.listening() as listener, httpx.AsyncClient() as http, asyncio.timeout(10):
        listener.check()
        assert (await http.get(f"http://127.0.0.1:{listener.port}/healthz")).json() == {"status": "ok"}
        async with connect(f"ws://127.0.0.1:{listener.port}/echo") as websocket:
            assert "permessage-deflate" not in (websocket.response.headers.get("Sec-WebSocket-Extensions") or "")  # type: ignore[union-attr]  # it is connected
            await websocket.send("hello")
            assert await websocket.recv() == "hello"


async def test_replicas_share_a_port(gateway: ProbeGateway) -> None:
    async with gateway.listening() as first, httpx.AsyncClient() as http, asyncio.timeout(10):
        second = HttpListener(gateway.app, GatewaySettings(), first.port)
        await second.start()
        await first.drain()
        assert (await http.get(f"http://127.0.0.1:{first.port}/healthz")).status_code == 200
        await second.drain()


async def test_a_request_that_is_open_ends_while_the_listener_drains(gateway: ProbeGateway) -> None:
    async with gateway.listening() as listener, httpx.AsyncClient() as http, asyncio.timeout(10):
        request = asyncio.create_task(http.get(f"http://127.0.0.1:{listener.port}/slow"))
        await gateway.entered.wait()
        draining = asyncio.create_task(listener.drain())
        while True:  # until no new connection is taken
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            except ConnectionError:
                break
            writer.close()
        assert not draining.done()
        gateway.release.set()
        assert (await request).text == "done"
        await draining


async def test_a_request_that_does_not_end_is_cut_after_the_drain_time(gateway: ProbeGateway) -> None:
    """Waits the shortest drain time that uvicorn knows, one second."""
    async with httpx.AsyncClient() as http, asyncio.timeout(10):
        async with gateway.listening(drain_s=0.0) as listener:
            request = asyncio.create_task(http.get(f"http://127.0.0.1:{listener.port}/slow"))
            await gateway.entered.wait()
        # Either the connection went or the server said that it failed; it did not hang.
        end = (await asyncio.gather(request, return_exceptions=True))[0]
        assert isinstance(end, httpx.TransportError) or (isinstance(end, httpx.Response) and end.status_code == 500)


async def test_a_websocket_is_told_that_the_server_goes_away(gateway: ProbeGateway) -> None:
    async with (
        asyncio.timeout(10),
        gateway.listening() as listener,
        connect(f"ws://127.0.0.1:{listener.port}/echo") as websocket,
    ):
        await websocket.send("hello")
        await websocket.recv()
        await asyncio.gather(listener.drain(), websocket.wait_closed())
    assert websocket.close_code == 1001


async def test_a_listener_that_has_ended_is_unhealthy(gateway: ProbeGateway) -> None:
    async with gateway.listening() as listener:
        await listener.drain()
        with pytest.raises(UnavailableError, match="ended"):
            listener.check()


async def test_connections_over_the_limit_are_answered_503(gateway: ProbeGateway) -> None:
    async with gateway.listening(max_connections=2) as listener, asyncio.timeout(10):
        url = f"http://127.0.0.1:{listener.port}/healthz"
        async with httpx.AsyncClient() as one, httpx.AsyncClient() as two, httpx.AsyncClient() as three:
            found = [(await client.get(url)).status_code for client in (one, two, three)]
        assert found[0] == 200
        assert found[-1] == 503


async def test_websockets_over_the_limit_are_answered_503(gateway: ProbeGateway) -> None:
    async with gateway.listening(max_connections=2) as listener, asyncio.timeout(10):
        url = f"ws://127.0.0.1:{listener.port}/echo"
        async with connect(url):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 503
            assert b"gateway.max_connections" in refused.value.response.body


def test_an_address_that_cannot_be_bound_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"192\.0\.2\.77:8080"):
        bind("192.0.2.77", 8080)
