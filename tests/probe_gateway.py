"""A facade made for tests of the gateway, composed and served as the real ones are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from arcray.config import GatewaySettings
from arcray.core.errors import ArcrayError, ConflictError
from arcray.core.node import LeaseTerms
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.listeners import HttpListener
from arcray.wire.access import public
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints
from arcray.wire.routes import RawRoute
from arcray.wire.sockets import write_now_of

__all__ = ["ProbeGateway"]


class ProbeGateway:
    """The application under test and what its routes do."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.released = asyncio.Event()
        self.messages = 0
        self.unready: ArcrayError | None = None
        self.app: ASGIApp = compose(
            [self._facade()],
            [FacadeEndpoints(router=self._router())],
            Probes(version="1.2.3", ready=self._ready, metrics=self._metrics),
            max_body_bytes=1024,
        )

    @asynccontextmanager
    async def listening(self, **settings: Any) -> AsyncIterator[HttpListener]:
        """The application on a port of loopback."""
        listener = HttpListener(self.app, GatewaySettings(drain_s=2.0).model_copy(update=settings), 0)
        await listener.start()
        try:
            yield listener
        finally:
            await listener.drain()

    @asynccontextmanager
    async def connected(
        self, limit_s: float, **settings: Any
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A bare connection to it, for so long at the most."""
        async with self.listening(**settings) as listener, asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            try:
                yield reader, writer
            finally:
                writer.close()

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(f"asked_for {request.url.path}\n")

    async def _ready(self) -> None:
        if self.unready is not None:
            raise self.unready

    def _facade(self) -> Facade:
        def never(_: FacadeContext) -> FacadeEndpoints:
            raise AssertionError("opened by the test itself")

        lease = LeaseTerms(unhealthy_after_s=1, lost_after_s=2)
        return Facade(name="probe", summary="Routes for tests", lease=lease, open=never)

    def _router(self) -> APIRouter:
        router = APIRouter()

        @public
        async def raw(request: Request) -> Response:
            match (await request.body()).decode():
                case "refuse":
                    raise ConflictError("taken", field="name")
                case "break":
                    raise ZeroDivisionError("secret")
                case text:
                    return PlainTextResponse(text)

        @public
        async def framed(request: Request) -> Response:
            return await raw(request)

        @public
        async def slow() -> Response:
            self.entered.set()
            await self.release.wait()
            return PlainTextResponse("done")

        @public
        async def endless() -> Response:
            async def pieces() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield b"x" * 2**20
                        await asyncio.sleep(0)  # a connection that has gone takes everything at once
                finally:
                    self.released.set()

            return StreamingResponse(pieces())

        router.add_api_route("/raw", raw, methods=["POST"], route_class_override=RawRoute)
        router.add_api_route("/raw/{name}", raw, methods=["POST"], route_class_override=RawRoute)
        router.add_api_route("/framed", framed, methods=["POST"], response_class=Response)
        router.add_api_route("/slow", slow, methods=["GET"], response_class=Response)
        router.add_api_route("/endless", endless, methods=["GET"], response_class=Response)
        self._add_sockets(router)
        return router

    def _add_sockets(self, router: APIRouter) -> None:
        @public
        async def echo(websocket: WebSocket) -> None:
            await websocket.accept()
            with suppress(WebSocketDisconnect):
                await websocket.send_text(await websocket.receive_text())
                await websocket.receive_text()

        @public
        async def pour(websocket: WebSocket) -> None:
            """Writes what the client takes without waiting, and then says how much that was, in the ordinary way."""
            write_now = write_now_of(websocket)
            assert not write_now("too early")
            await websocket.accept()
            count = 0
            while write_now(f"{count} {'x' * 10_000}"):
                count += 1
            await websocket.send_text(str(count))
            await websocket.close()
            assert not write_now("too late")

        @public
        async def collect(websocket: WebSocket) -> None:
            """Counts messages of one letter; any other is answered with how many they were."""
            await websocket.accept()
            count = 0
            with suppress(WebSocketDisconnect):
                while True:
                    if len(await websocket.receive_text()) > 1:
                        await websocket.send_text(str(count))
                    else:
                        count += 1
                        self.messages += 1

        @public
        async def leave(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.receive_text()
            await websocket.close()

        @public
        async def shut(websocket: WebSocket) -> None:
            """Never opens; ends once the client has gone."""
            assert (await websocket.receive())["type"] == "websocket.connect"
            assert (await websocket.receive())["type"] == "websocket.disconnect"
            self.released.set()

        router.add_api_websocket_route("/echo", echo)
        router.add_api_websocket_route("/shut", shut)
        router.add_api_websocket_route("/collect", collect)
        router.add_api_websocket_route("/pour", pour)
        router.add_api_websocket_route("/leave", leave)
