"""The WebSocket of the telemetry stream, and the one feed per process that all of its sockets read.

What lives here: reading events while somebody listens, bounding every socket's queue, closing what cannot keep up.
Each event is translated and encoded once; a socket costs a reference in its queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from arcray.core.errors import ArcrayError, NotFoundError, ResourceExhaustedError, UnavailableError
from arcray.core.events import Event
from arcray.core.queries import GetWorkload
from arcray.core.queues import QueueReading
from arcray.facades.arcnet.projection import TOPICS, Frame, TelemetryProjection
from arcray.facades.arcnet.queues import Queue
from arcray.facades.arcnet.session import Close, Reply, TelemetrySession
from arcray.wire.access import deny, identity_of
from arcray.wire.event_hub import Subscription
from arcray.wire.facade import FacadeContext
from arcray.wire.listing import every_node
from arcray.wire.sockets import Places, end, next_frame, until_one_ends

__all__ = ["TelemetryEndpoint", "TelemetryFeed"]

_log = logging.getLogger(__name__)

_TRY_AGAIN_LATER: Final = 1013
_RETRY_S: Final = 1.0


class Listener:
    """One socket's queue.

    Args:
        capacity: frames that may wait besides a snapshot; one more and the socket is given up.
    """

    def __init__(self, session: TelemetrySession, capacity: int) -> None:
        self._session = session
        self._capacity = capacity
        self._limit = capacity
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self.overrun = asyncio.Event()

    def restart(self, snapshot: Sequence[Frame]) -> None:
        """Queues a snapshot in place of the telemetry that waits; other frames are facts and stay."""
        kept = [frame for frame in self._frames if frame.geozone is None]
        self._frames = deque(kept + [frame for frame in snapshot if self._session.passes(frame)])
        self._limit = len(self._frames) + self._capacity
        self._arrived.set()

    def __len__(self) -> int:
        return len(self._frames)

    def offer(self, frame: Frame) -> None:
        """Queues a frame if the console wants it."""
        if not self._session.passes(frame):
            return
        if len(self._frames) >= self._limit:
            self.overrun.set()
            return
        self._frames.append(frame)
        self._arrived.set()

    async def next(self) -> str:
        """Returns the next frame to send, waiting for it."""
        while not self._frames:
            self._limit = self._capacity
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft().text


class TelemetryFeed:
    """Turns events into frames for every listener, while there are any.

    Attributes:
        places: of its sockets.
    """

    def __init__(self, context: FacadeContext) -> None:
        self._context = context
        self.places = Places(context.settings.arcnet.max_sockets)
        self._projection = TelemetryProjection()
        self._listeners: set[Listener] = set()
        self._interested = 0  # listeners, and those who wait to become one
        self._wanted = asyncio.Event()
        self._standing = asyncio.Event()

    @property
    def listeners(self) -> int:
        """How many sockets read."""
        return len(self._listeners)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many sockets there are, and how many frames wait for the one that has the most of them."""
        settings = self._context.settings.arcnet
        longest = max(map(len, self._listeners), default=0)
        return (
            QueueReading(queue=Queue.SOCKETS, length=self.places.taken, limit=self.places.most),
            QueueReading(queue=Queue.FRAMES, length=longest, limit=settings.socket_queue),
        )

    @asynccontextmanager
    async def listen(self, session: TelemetrySession) -> AsyncIterator[Listener]:
        """Joins: the listener begins with a snapshot and misses nothing after it.

        Raises:
            UnavailableError: the scheduler is away.
        """
        listener = Listener(session, self._context.settings.arcnet.socket_queue)
        self._interested += 1
        self._wanted.set()
        try:
            await self._stands()
            # No await between the snapshot and the membership: no event can fall between them.
            listener.restart(self._projection.snapshot())
            self._listeners.add(listener)
            yield listener
        finally:
            self._listeners.discard(listener)
            self._interested -= 1

    async def run(self) -> None:
        """Serves until it is cancelled."""
        while True:
            await self._wanted.wait()
            try:
                async with self._context.events.subscribe(TOPICS) as events:
                    await self._serve(events)
            except ArcrayError as error:
                _log.warning("telemetry stream lost", extra={"code": error.code})
                await self._context.clock.sleep(_RETRY_S)
            finally:
                self._standing.clear()

    async def _stands(self) -> None:
        try:
            async with asyncio.timeout(self._context.settings.gateway.call_timeout_s):
                await self._standing.wait()
        except TimeoutError as error:
            raise UnavailableError("the telemetry stream did not open in time") from error

    async def _serve(self, events: Subscription) -> None:
        await self._resync()
        self._standing.set()
        while True:
            batch = await events.next()
            if not self._interested:
                # Nobody reads any more. Noticed only when something happens, because an idle stream costs nothing and
                # consoles that reconnect in storms find it standing.
                self._wanted.clear()
                return
            if batch.gap:
                await self._resync()
            for event in batch.events:
                await self._take(event)

    async def _resync(self) -> None:
        self._projection.reset(await every_node(self._context.plane))
        snapshot = self._projection.snapshot()
        for listener in self._listeners:
            listener.restart(snapshot)

    async def _take(self, event: Event) -> None:
        unknown = self._projection.unknown(event)
        if unknown is not None:
            with suppress(NotFoundError):  # a request of before a restart, and forgotten since
                self._projection.learn((await self._context.plane.query(GetWorkload(workload_id=unknown))).spec)
        for frame in self._projection.apply(event):
            for listener in self._listeners:
                listener.offer(frame)


class TelemetryEndpoint:
    """``WS /telemetry``."""

    def __init__(self, context: FacadeContext, feed: TelemetryFeed) -> None:
        self._context = context
        self._feed = feed

    async def serve(self, socket: WebSocket) -> None:
        """Serves one console until it leaves or is closed."""
        if self._feed.places.are_full:
            await deny(socket, ResourceExhaustedError("this process serves as many telemetry sockets as it may"))
            return
        with self._feed.places.one():
            await self._serve(socket)

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        session = TelemetrySession(sees=identity_of(socket).sees)
        try:
            async with self._feed.listen(session) as listener:
                close = await self._converse(socket, session, listener)
        except UnavailableError as error:
            close = Close(_TRY_AGAIN_LATER, error.message)
        except WebSocketDisconnect:
            return
        if close is not None:
            await end(socket, (), close.code, close.reason)

    async def _converse(self, socket: WebSocket, session: TelemetrySession, listener: Listener) -> Close | None:
        """Sends and receives until one of both ends; returns how to close, None when the console has left."""
        _, close, overrun = await until_one_ends(
            _send(socket, listener), self._receive(socket, session, listener), listener.overrun.wait()
        )
        if overrun:
            _log.info("telemetry socket given up", extra={"reason": "slow"})
            return Close(_TRY_AGAIN_LATER, "this socket does not keep up")
        told: Close | None = close
        return told

    async def _receive(self, socket: WebSocket, session: TelemetrySession, listener: Listener) -> Close | None:
        while (frame := await next_frame(socket)) is not None:
            match action := session.receive(frame, self._context.clock.now()):
                case Reply():
                    listener.offer(action.frame)
                case Close():
                    return action
                case None:
                    pass
        return None


async def _send(socket: WebSocket, listener: Listener) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it left while a frame was on its way
        while True:
            await socket.send_text(await listener.next())
