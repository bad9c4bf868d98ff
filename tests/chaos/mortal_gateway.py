"""HiveMind as a gateway serves it, over a line to a scheduler that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from arcray.config import Settings
from arcray.gateway.rpc import RpcListener
from arcray.runtime.policy import answer_s
from arcray.runtime.remote_plane import RemotePlane
from arcray.testing.mortal_scheduler import MortalScheduler
from arcray.testing.node_fakes import MemoryBlobs
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["a_gateway"]

_NAME = "gateway"


@asynccontextmanager
async def a_gateway(scheduler: MortalScheduler, settings: Settings) -> AsyncIterator[str]:
    """Serves it for the time of the block, and yields its address."""
    clock, attachments = SystemClock(), Attachments(_NAME)
    plane = RemotePlane(
        scheduler.dialer(_NAME),
        MemoryBlobs(),
        clock,
        client=_NAME,
        give_up_s=settings.gateway.call_timeout_s,
        answer_s=answer_s(settings),
        orders=attachments.take,
    )
    events = EventHub(plane, clock)
    authenticator = Authenticator(settings.auth, plane, events, clock)
    (facade,) = load_facades(("hivemind",))
    endpoints = facade.open(
        FacadeContext(
            plane=plane,
            settings=settings,
            clock=clock,
            ids=RandomIds(),
            authenticator=authenticator,
            events=events,
            attachments=attachments,
        )
    )
    assert endpoints.grpc is not None
    assert endpoints.run is not None
    listener = RpcListener([endpoints.grpc], settings.gateway, 0)
    parts = [asyncio.create_task(part) for part in (plane.run(), events.run(), authenticator.run(), endpoints.run())]
    await listener.start()
    try:
        yield f"127.0.0.1:{listener.port}"
    finally:
        await listener.drain()
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
