"""The Resource Pool on the gateway's own listener, in one process with its scheduler; beside it a bare loop.

    python -m tests.bench.pool_server PORT

``WS /bare`` sends every text that one of its sockets sends to all of them, and does nothing else; ``GET /processor``
tells how many seconds of processor the process has used.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from arcray.config import Settings
from arcray.core.node import LeaseTerms
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.listeners import HttpListener
from arcray.runtime.actors import tune_interpreter
from arcray.testing.plane import in_process_plane
from arcray.wire.access import public
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds


def _bare(_: FacadeContext) -> FacadeEndpoints:
    sockets: list[WebSocket] = []

    async def serve(socket: WebSocket) -> None:
        await socket.accept()
        sockets.append(socket)
        try:
            while True:
                text = await socket.receive_text()
                for each in sockets:
                    await each.send_text(text)
        except WebSocketDisconnect:
            sockets.remove(socket)

    async def processor(_: Request) -> Response:
        return PlainTextResponse(str(time.process_time()))

    router = APIRouter()
    router.add_api_websocket_route("/bare", public(serve))
    router.add_route("/processor", public(processor))
    return FacadeEndpoints(router=router)


async def _serve(port: int) -> None:
    settings = Settings.model_validate({"pool": {"show_cluster_nodes": False}, "log_level": "WARNING"})
    async with in_process_plane(nodes=[]) as cluster:
        hub = EventHub(cluster.plane, cluster.clock)
        context = FacadeContext(
            plane=cluster.plane,
            settings=settings,
            clock=cluster.clock,
            ids=RandomIds(),
            authenticator=Authenticator(settings.auth, cluster.plane, hub, cluster.clock),
            events=hub,
            attachments=cluster.driver,
        )
        lease = LeaseTerms(unhealthy_after_s=30, lost_after_s=60)
        facades = (*load_facades(["pool"]), Facade(name="bare", summary="a loop", lease=lease, open=_bare))
        endpoints = [facade.open(context) for facade in facades]
        probes = Probes(version="bench", ready=_ready, metrics=_metrics)
        app = compose(facades, endpoints, probes, max_body_bytes=settings.gateway.max_body_bytes)
        listener = HttpListener(app, settings.gateway, port)
        async with asyncio.TaskGroup() as group:
            for part in (hub.run, *(each.run for each in endpoints if each.run is not None)):
                group.create_task(part())
            await listener.start()
            tune_interpreter()
            print("serves", flush=True)


async def _ready() -> None:
    """It is."""


async def _metrics(_: Request) -> Response:
    return PlainTextResponse()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
