"""The Resource Pool's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter

from arcray.core.keys import Scope
from arcray.facades.pool.advertising import advertise
from arcray.facades.pool.endpoint import SocketEndpoint
from arcray.facades.pool.links import PoolLinks
from arcray.facades.pool.nodes import FACADE as NAME
from arcray.facades.pool.nodes import LEASE
from arcray.facades.pool.queues import Queue
from arcray.facades.pool.rest import PoolRest
from arcray.wire.access import Door
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints

__all__ = ["FACADE"]


def _open(context: FacadeContext) -> FacadeEndpoints:
    links = PoolLinks(context)
    endpoint = SocketEndpoint(links, context.settings.pool.max_sockets)
    router = APIRouter()
    PoolRest(context, links).add_to(router)
    # Who submits lends and borrows; a machine's key is for one that does the work of others too.
    door = Door(context.authenticator).socket(Scope.SUBMIT, endpoint.serve, beside=(Scope.NODE,))
    router.add_api_websocket_route("/ws", door)
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
    queues=frozenset(Queue),
)
"""The Resource Pool."""
