"""The line to a gateway: one WebSocket after the other, for as long as this machine is part of the pool.

What lives here: connecting, waiting between tries, and what the end of a connection means. What does not: any word of
any protocol (a ``Session`` each). Two tasks share a connection: one reads, one writes whatever the session has due, and
both go at the pace of the socket. A peer that is gone without a word is found out by the pings of the WebSocket itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Close

from arcray.core.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from arcray.core.ports import Clock, Ids
from arcray.logs import without_credentials

__all__ = ["Backoff", "Frame", "Link", "Peer", "Session", "websocket_url"]

_log = logging.getLogger(__name__)

Frame: TypeAlias = str | bytes

_A = TypeVar("_A")
_A_co = TypeVar("_A_co", covariant=True)

_OPEN_S: Final = 10.0
_CLOSE_S: Final = 2.0
_PING_S: Final = 20.0
_QUEUE: Final = 16  # frames
_FIRST_S: Final = 0.5
_LONGEST_S: Final = 30.0
_PROVEN_S: Final = 10.0  # a connection that lasts so long was a good one
_NORMAL: Final = 1000
_PROTOCOL_ERROR: Final = 1002
_POLICY: Final = 1008
_REFUSALS: Final = {401: UnauthenticatedError, 403: PermissionDeniedError}
_DIGITS: Final = 8
_DETAIL_LIMIT: Final = 512
_BROKEN: Final = Close(1006, "")  # no word came


class Session(Protocol[_A_co]):
    """What is said over the connections, of which one is open at a time. Frames are taken and given by calls alone."""

    @property
    def registered(self) -> bool:
        """Whether the gateway has taken this machine over this connection."""
        ...

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that nothing more should be read."""
        ...

    @property
    def left(self) -> bool:
        """Whether this machine was to leave, and everything is over and said."""
        ...

    def opened(self) -> Frame:
        """Returns the first frame of a connection."""
        ...

    def closed(self) -> None:
        """Takes that the connection is gone."""
        ...

    def received(self, frame: Frame) -> Sequence[_A_co]:
        """Takes a frame; returns what it asks of the machine."""
        ...

    def take(self) -> Sequence[Frame]:
        """Returns the next frames to send, in order."""
        ...

    def due_s(self) -> float | None:
        """Returns in how many seconds there is something to send; None before this machine is registered."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The gateway.

    Args:
        url: as ``websocket_url`` returns it.
        api_key: shown to it; "" shows none.
        max_message_bytes: the largest that is read of it; a larger one ends the connection.
        register_s: how long it may take to answer a registration.
    """

    url: str = field(repr=False)
    api_key: str = field(default="", repr=False)
    max_message_bytes: int
    register_s: float = 10.0

    @property
    def shown(self) -> str:
        """Its URL for people and logs, who need not know what it lets in."""
        return without_credentials(self.url)


class Backoff:
    """Waits between tries: twice as long each time, up to half a minute, and up to half of that by chance less."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._tries = 0

    def next_s(self) -> float:
        """Returns how long to wait now."""
        longest_s: float = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._tries, 16))
        self._tries += 1
        chance: float = int(self._ids.new().replace("-", "")[-_DIGITS:], 16) / 16.0**_DIGITS
        return longest_s * (1.0 - chance / 2.0)

    def reset(self) -> None:
        """Begins anew: the last connection was a good one."""
        self._tries = 0


class Link(Generic[_A]):
    """Keeps one session connected.

    Args:
        act: told what each frame asks for, before the next is read.
        lost: told that a connection has ended; the next one waits until it returns.
    """

    def __init__(
        self,
        peer: Peer,
        session: Session[_A],
        *,
        act: Callable[[Sequence[_A]], Awaitable[None]],
        clock: Clock,
        ids: Ids,
        lost: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._peer = peer
        self._session = session
        self._act = act
        self._lost = lost
        self._clock = clock
        self._backoff = Backoff(ids)
        self._due = asyncio.Event()
        self._drained = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._joined = False  # once, over any connection

    def wake(self) -> None:
        """Has the session be asked again for what is due."""
        self._due.set()

    async def reconnect(self) -> None:
        """Registers anew, over another connection: this machine has become another."""
        if self._socket is not None:
            await self._socket.close(1012)

    async def run(self) -> None:
        """Stays connected until the gateway says good-bye, or this machine has left.

        Raises:
            UnauthenticatedError, PermissionDeniedError: the gateway does not let this machine in, which it never has.
        """
        gateway = self._peer.shown
        while True:
            began_s, pause_s = self._clock.monotonic(), 0.0
            try:
                closed = await self._one_connection()
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                self._check_may_try(error)
                pause_s = _pause_s(error)
                reason = _reason(error).replace(self._peer.url, gateway)
                _log.warning("gateway not reached", extra={"gateway": gateway, "reason": reason})
                closed = None
            if self._lost is not None:
                await self._lost()
            if self._session.left:
                return
            if closed is not None:
                if self._is_over(closed):
                    _log.info("the gateway has said good-bye", extra={"gateway": gateway, "reason": closed.reason})
                    return
                _log.warning("gateway gone", extra={"gateway": gateway, "code": closed.code, "reason": closed.reason})
                if self._clock.monotonic() - began_s >= _PROVEN_S:
                    self._backoff.reset()
            await self._clock.sleep(max(pause_s, self._backoff.next_s()))

    def _is_over(self, closed: Close) -> bool:
        """Returns whether the gateway wants this machine no more; refuses to go on where it never did."""
        if closed.code in (_PROTOCOL_ERROR, _POLICY) and not self._joined:
            why = f": {closed.reason}" if closed.reason else ""
            raise PermissionDeniedError(f"the gateway refuses this machine: it closed with {closed.code}{why}")
        return closed.code == _NORMAL

    def _check_may_try(self, error: Exception) -> None:
        """Refuses to go on where the gateway has never let this machine in, and says that it does not."""
        if isinstance(error, InvalidStatus) and not self._joined:
            refusal = _REFUSALS.get(error.response.status_code)
            if refusal is not None:
                raise refusal(_reason(error), field="api_key") from error

    async def _one_connection(self) -> Close | None:
        """Speaks over one connection until it ends; returns how the gateway has closed it."""
        peer = self._peer
        socket = await connect(
            peer.url,
            additional_headers={"Authorization": f"Bearer {peer.api_key}"} if peer.api_key else {},
            compression=None,
            proxy=None,  # as all of arcray reaches what it is told to
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            max_size=peer.max_message_bytes,
            max_queue=_QUEUE,
        )
        self._socket = socket
        try:
            await socket.send(self._session.opened())
            await self._until_registered(socket)
            _log.info("registered", extra={"gateway": peer.shown})
            await self._speak(socket)
        except ConnectionClosed as error:
            return error.rcvd or _BROKEN
        finally:
            self._socket = None
            self._session.closed()
            await socket.close()
        return None

    async def _until_registered(self, socket: ClientConnection) -> None:
        async with asyncio.timeout(self._peer.register_s):
            while not self._session.registered:
                await self._act(self._session.received(await socket.recv()))
        self._joined = True

    async def _speak(self, socket: ClientConnection) -> None:
        tasks = {asyncio.create_task(self._read(socket)), asyncio.create_task(self._write(socket))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            actions = self._session.received(await socket.recv())
            self._due.set()
            await self._act(actions)
            while self._session.congested:
                self._drained.clear()
                await self._drained.wait()

    async def _write(self, socket: ClientConnection) -> None:
        """Writes what is due; returns once this machine has left."""
        while not self._session.left:
            self._due.clear()
            for frame in self._session.take():
                await socket.send(frame)
            self._drained.set()
            wait_s = self._session.due_s()
            if wait_s:
                await self._until_due(wait_s)

    async def _until_due(self, wait_s: float) -> None:
        waiters = {asyncio.create_task(self._due.wait()), asyncio.create_task(self._clock.sleep(wait_s))}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()


def _reason(error: Exception) -> str:
    """Returns why a connection could not be had, in the gateway's own words where it has some."""
    if not isinstance(error, InvalidStatus):
        return str(error) or "no answer"
    response = error.response
    try:
        told: Any = json.loads(response.body or b"")
    except ValueError:
        told = None
    detail = told.get("detail") if isinstance(told, dict) else None
    answer = f"the gateway answers {response.status_code}"
    return f"{answer}: {detail[:_DETAIL_LIMIT]}" if isinstance(detail, str) and detail else answer


def _pause_s(error: Exception) -> float:
    """Returns how long the gateway wants to be left alone; no longer than any other pause."""
    told = error.response.headers.get("Retry-After", "") if isinstance(error, InvalidStatus) else ""
    return min(_LONGEST_S, float(told)) if told.isascii() and told.isdecimal() else 0.0


def websocket_url(text: str, path: str) -> str:
    """Returns the URL of a gateway.

    Args:
        path: where gateways of this protocol mostly are; for the error.

    Raises:
        InvalidArgumentError: it is none of a WebSocket.
    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
        is_one = is_one and (parts.username is None) == (parts.password is None)
    except ValueError:  # a port that is no number
        is_one = False
    if not is_one:
        raise InvalidArgumentError(
            f"must be ws://HOST:PORT{path} or wss://HOST:PORT{path}, got {without_credentials(text)!r}", field="gateway"
        )
    return text
