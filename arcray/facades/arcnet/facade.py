"""ArcNet's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from arcray.core.keys import Scope
from arcray.core.node import LeaseTerms
from arcray.facades.arcnet.queues import Queue
from arcray.facades.arcnet.rest import INFERENCE_PATH, ArcnetRest
from arcray.facades.arcnet.telemetry import TelemetryEndpoint, TelemetryFeed
from arcray.facades.arcnet.translate import FACADE as NAME
from arcray.facades.arcnet.translate import OFFLINE_AFTER, STALE_AFTER
from arcray.wire.access import Door
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints
from arcray.wire.limits import BodyBound

__all__ = ["FACADE"]


def _open(context: FacadeContext) -> FacadeEndpoints:
    router = APIRouter()
    ArcnetRest(context).add_to(router)
    feed = TelemetryFeed(context)
    door = Door(context.authenticator)
    router.add_api_websocket_route("/telemetry", door.socket(Scope.READ, TelemetryEndpoint(context, feed).serve))
    largest = BodyBound(bytes=context.settings.inference.max_body_bytes, setting="inference.max_body_bytes")
    return FacadeEndpoints(router=router, run=feed.run, queues=feed.queues, bodies={INFERENCE_PATH: largest})


FACADE: Final = Facade(
    name=NAME,
    summary="ArcNet: nodes, inference and statistics over REST, live telemetry over WebSocket",
    lease=LeaseTerms(unhealthy_after_s=STALE_AFTER.total_seconds(), lost_after_s=OFFLINE_AFTER.total_seconds()),
    open=_open,
    queues=frozenset(Queue),
)
