"""The deployment: opens everything that a replica serves, tells its health, drains it.

A plain class: ``app`` makes the Serve deployment of it. Serve builds its own port's application through
``__serve_build_asgi_app__``, so every port answers by the same one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import Any, Protocol

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from arcray import logs
from arcray.config import Settings
from arcray.core.errors import UnavailableError
from arcray.core.keys import Scope
from arcray.core.queues import Meter
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.background import Background
from arcray.gateway.listeners import HttpListener, connections, floods
from arcray.gateway.measures import CONTENT_TYPE, Measures
from arcray.gateway.rpc import RpcListener
from arcray.runtime.actors import tune_interpreter
from arcray.runtime.gauges import QueueGauges
from arcray.runtime.installed import installed_version
from arcray.runtime.policy import answer_s
from arcray.runtime.remote_blobs import blobs_for
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.scheduler_actor import create_scheduler
from arcray.runtime.scheduler_handle import SchedulerHandle
from arcray.wire.access import Door
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["Ingress"]

_log = logging.getLogger(__name__)


class _Listener(Protocol):
    async def start(self) -> None: ...

    def check(self) -> None: ...

    async def drain(self) -> None: ...


class Ingress:
    """One gateway replica."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits constructors
        logs.configure(settings.log_level, settings.log_format)
        # `arcray up` has made it already; `serve deploy` alone has not.
        await asyncio.to_thread(create_scheduler, settings)
        clock, ids = SystemClock(), RandomIds()
        client = f"gateway.{os.getpid()}.{ids.new()}"
        self._scheduler = SchedulerHandle(client=client)
        attachments = Attachments(client)
        plane = RemotePlane(
            self._scheduler,
            blobs_for(settings, self._scheduler, clock),
            clock,
            client=client,
            give_up_s=settings.gateway.call_timeout_s,
            answer_s=answer_s(settings),
            limit_bytes=settings.gateway.max_asks_bytes,
            orders=attachments.take,
        )
        hub = EventHub(plane, clock)
        self._authenticator = Authenticator(settings.auth, plane, hub, clock)
        context = FacadeContext(
            plane=plane,
            settings=settings,
            clock=clock,
            ids=ids,
            authenticator=self._authenticator,
            events=hub,
            attachments=attachments,
        )
        facades = load_facades(settings.facades)
        endpoints = [facade.open(context) for facade in facades]
        self._app = compose(
            facades,
            endpoints,
            Probes(
                version=installed_version(),
                ready=self._ready,
                metrics=Door(self._authenticator)(Scope.READ, self._metrics),
            ),
            max_body_bytes=settings.gateway.max_body_bytes,
        )
        gateway = settings.gateway
        http = [HttpListener(self._app, gateway, port) for port in gateway.http_ports]
        meters: list[Meter] = [plane.queues, hub.queues, partial(connections, http, gateway)]
        meters += [each.queues for each in endpoints if each.queues is not None]
        self._measures = Measures(plane, meters, partial(floods, http))
        parts = [plane.run, hub.run, self._authenticator.run, QueueGauges(meters, clock).run]
        self._background = Background([*parts, *(each.run for each in endpoints if each.run is not None)])
        self._background.start()
        self._listeners: list[_Listener] = [*http]
        if gateway.grpc_port is not None:
            services = [each.grpc for each in endpoints if each.grpc is not None]
            self._listeners.append(RpcListener(services, gateway, gateway.grpc_port))
        for listener in self._listeners:
            await listener.start()
        tune_interpreter()
        _log.info("gateway serves", extra={"http": gateway.http_ports, "grpc": gateway.grpc_port})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Returns the application for Serve's own port."""
        return self._app

    async def check_health(self) -> None:
        """Raises when a listener or a background part has ended; Serve then replaces the replica."""
        self._background.check()
        for listener in self._listeners:
            listener.check()

    async def __del__(self) -> None:
        """Drains: no new connections, open requests end, then the rest stops."""
        if not hasattr(self, "_listeners"):
            return  # the constructor failed
        await asyncio.gather(*(listener.drain() for listener in self._listeners))
        await self._background.stop()
        _log.info("gateway drained")

    async def _metrics(self) -> Response:
        return PlainTextResponse(await self._measures.text(), media_type=CONTENT_TYPE)

    async def _ready(self) -> None:
        status: dict[str, Any] = await self._scheduler.status()
        if not status["ready"]:
            raise UnavailableError(f"the scheduler takes nothing yet: {status['reason']}")
