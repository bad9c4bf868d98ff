"""claw's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from arcray.core.keys import Scope
from arcray.facades.claw.audit_route import AuditRoute
from arcray.facades.claw.endpoint import NodeEndpoint
from arcray.facades.claw.links import NodeLinks
from arcray.facades.claw.nodes import FACADE as NAME
from arcray.facades.claw.nodes import LEASE
from arcray.facades.claw.queues import Queue
from arcray.wire.access import Door
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints

__all__ = ["FACADE"]

_PATHS: Final = ("/claw", "/")  # nodes of the first implementation ask for no path


def _open(context: FacadeContext) -> FacadeEndpoints:
    own = context.settings.claw
    links = NodeLinks(context.plane, context.attachments, context.events, context.clock, own)
    endpoint = NodeEndpoint(links, own.max_sockets)
    router = APIRouter()
    door = Door(context.authenticator)
    for path in _PATHS:
        router.add_api_websocket_route(path, door.socket(Scope.NODE, endpoint.serve))
    AuditRoute(context).add_to(router)
    return FacadeEndpoints(router=router, run=links.run, queues=lambda: (*endpoint.queues(), *links.queues()))


FACADE: Final = Facade(
    name=NAME,
    summary="claw-proto: nodes over WebSocket, in JSON and bincode; the audit log over REST",
    lease=LEASE,
    open=_open,
    queues=frozenset(Queue),
)
