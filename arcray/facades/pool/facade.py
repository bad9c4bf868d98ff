"""The Resource Pool's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter
from starlette.websockets import WebSocket

from arcray.facades.pool.advertising import advertise
from arcray.facades.pool.endpoint import SocketEndpoint
from arcray.facades.pool.links import PoolLinks
from arcray.facades.pool.nodes import FACADE as NAME
from arcray.facades.pool.nodes import LEASE
from arcray.facades.pool.rest import PoolRest
from arcray.wire.access import public
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints

__all__ = ["FACADE"]


def _open(context: FacadeContext) -> FacadeEndpoints:
    links = PoolLinks(context)
    endpoint = SocketEndpoint(links, context.authenticator, context.settings.pool.max_sockets)
    router = APIRouter()
    PoolRest(context, links).add_to(router)

    async def serve(socket: WebSocket) -> None:
        await endpoint.serve(socket)

    router.add_api_websocket_route("/ws", public(serve))  # which has doors of its own
    own = context.settings.pool.advertise

    async def run() -> None:
        if not own.enabled:
            await links.run()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(advertise(own, context.settings.gateway.host))
            await links.run()

    return FacadeEndpoints(router=router, run=run, queues=endpoint.queues)


FACADE: Final = Facade(
    name=NAME,
    summary="Resource Pool: devices that lend and borrow over REST and WebSocket",
    lease=LEASE,
    open=_open,
)
"""The Resource Pool."""
