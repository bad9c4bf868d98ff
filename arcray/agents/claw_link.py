"""The line to a claw gateway: one WebSocket after the other, for as long as this machine is part of the pool.

What lives here: connecting, waiting between tries, and what the end of a connection means. What does not: any word
(``claw_session``). Two tasks share a connection: one reads, one writes whatever the session has due, and both go at the
pace of the socket. A peer that is gone without a word is found out by the pings of the WebSocket itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from arcray.agents.claw_session import Action, ClawSession
from arcray.claw_proto.frames import MAX_MESSAGE_BYTES
from arcray.core.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from arcray.core.ports import Clock, Ids

__all__ = ["Backoff", "ClawLink", "gateway_url"]

_log = logging.getLogger(__name__)

Act: TypeAlias = Callable[[Sequence[Action]], Awaitable[None]]
"""Does what the gateway asks."""

_OPEN_S: Final = 10.0
_REGISTER_S: Final = 10.0
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


class ClawLink:
    """Keeps one session connected.

    Args:
        url: as ``gateway_url`` returns it.
        api_key: shown to the gateway; "" shows none.
        act: told what each frame asks for, before the next is read.
    """

    def __init__(self, url: str, *, api_key: str, session: ClawSession, act: Act, clock: Clock, ids: Ids) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = session
        self._act = act
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
        while True:
            began_s = self._clock.monotonic()
            try:
                code = await self._one_connection()
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                self._check_may_try(error)
                _log.warning("gateway not reached", extra={"gateway": self._url, "reason": str(error) or "no answer"})
                code = None
            if self._session.left:
                return
            if code == _NORMAL:
                _log.info("the gateway has said good-bye", extra={"gateway": self._url})
                return
            if code is not None:
                _log.warning("gateway gone", extra={"gateway": self._url, "code": code})
                if code in (_PROTOCOL_ERROR, _POLICY) and not self._joined:
                    raise PermissionDeniedError(f"the gateway refuses this machine: it closed with {code}")
                if self._clock.monotonic() - began_s >= _PROVEN_S:
                    self._backoff.reset()
            await self._clock.sleep(self._backoff.next_s())

    def _check_may_try(self, error: Exception) -> None:
        """Refuses to go on where the gateway has never let this machine in, and says that it does not."""
        if isinstance(error, InvalidStatus) and not self._joined:
            refusal = _REFUSALS.get(error.response.status_code)
            if refusal is not None:
                raise refusal(f"the gateway answers {error.response.status_code}", field="api_key") from error

    async def _one_connection(self) -> int | None:
        """Speaks over one connection until it ends; returns the code that the gateway closed it with."""
        socket = await connect(
            self._url,
            additional_headers=self._headers,
            compression=None,
            proxy=None,  # as all of arcray reaches what it is told to
            open_timeout=_OPEN_S,
            close_timeout=_CLOSE_S,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_QUEUE,
        )
        self._socket = socket
        try:
            await socket.send(self._session.opened())
            await self._until_registered(socket)
            _log.info("registered", extra={"gateway": self._url})
            await self._speak(socket)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd is not None else 1006
        finally:
            self._socket = None
            self._session.closed()
            await socket.close()
        return None

    async def _until_registered(self, socket: ClientConnection) -> None:
        async with asyncio.timeout(_REGISTER_S):
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


def gateway_url(text: str) -> str:
    """Returns the URL of a gateway.

    Raises:
        InvalidArgumentError: it is none of a WebSocket.
    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:  # a port that is no number
        is_one = False
    if not is_one:
        raise InvalidArgumentError(
            f"must be ws://HOST:PORT/claw or wss://HOST:PORT/claw, got {text!r}", field="gateway"
        )
    return text
