"""How long a listener waits for a client: for headers, for a body, and for its reading of what was written.

What lives here: the limits, and looking for connections that are over one. What does not: what a connection is doing
(protocols), the wait between two requests (uvicorn's own timer), the beat of an open WebSocket (uvicorn's pings).

One look at all connections per second instead of timers that every request would start and cancel; a limit is kept to
that second. A wait is known by an object of its own, so that a busy connection is not taken for one that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from arcray.config import GatewaySettings
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.gateway.protocols import HttpProtocol, WebSocketProtocol

__all__ = ["LOOK_S", "Connection", "Patience"]

LOOK_S: Final = 1.0

Connection: TypeAlias = HttpProtocol | WebSocketProtocol


@dataclass(frozen=True, slots=True)
class _Wait:
    """What a connection is waited for, and since when.

    Args:
        what: an object of this wait alone.
        unread: bytes written that the client had not taken; a wait for a reader ends when that changes.
    """

    what: object
    since: float
    unread: int = 0


class Patience:
    """Ends connections of one listener that are waited for too long."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._asking: dict[Connection, _Wait] = {}
        self._reading: dict[Connection, _Wait] = {}

    def look(self, connections: Collection[asyncio.BaseProtocol], now: float) -> None:
        """Ends what is over a limit.

        Args:
            now: monotonic seconds.
        """
        found = [cast("Connection", each) for each in connections]
        self._asking = {each: wait for each in found if (wait := self._asked(each, now))}
        self._reading = {each: wait for each in found if (wait := self._unread(each, now))}
        for each, wait in self._asking.items():
            error = self._overdue(each, wait, now) if isinstance(each, HttpProtocol) else self._unopened(wait, now)
            if error is not None and not each.transport.is_closing():
                each.expire(error)
        for each, wait in self._reading.items():
            if now - wait.since > self._settings.write_timeout_s:
                each.transport.abort()

    def _asked(self, connection: Connection, now: float) -> _Wait | None:
        if isinstance(connection, HttpProtocol):
            what = connection.waiting_for_headers() or connection.waiting_for_body()
        else:
            what = connection.waiting_to_open()
        if what is None:
            return None
        known = self._asking.get(connection)
        return known if known is not None and known.what is what else _Wait(what, now)

    def _unread(self, connection: Connection, now: float) -> _Wait | None:
        unread = connection.transport.get_write_buffer_size()
        if not unread:
            return None
        known = self._reading.get(connection)
        return known if known is not None and known.unread == unread else _Wait(connection, now, unread=unread)

    def _unopened(self, wait: _Wait, now: float) -> UnavailableError | None:
        limit_s = self._settings.header_timeout_s
        if now - wait.since <= limit_s:
            return None
        return UnavailableError(f"no WebSocket was opened within the {limit_s:g} s of gateway.header_timeout_s")

    def _overdue(self, connection: HttpProtocol, wait: _Wait, now: float) -> InvalidArgumentError | None:
        settings, waited_s = self._settings, now - wait.since
        if connection.waiting_for_headers() is not None:
            if waited_s <= settings.header_timeout_s:
                return None
            return InvalidArgumentError(
                f"did not come within the {settings.header_timeout_s:g} s of gateway.header_timeout_s", field="headers"
            )
        allowed_s = settings.body_timeout_s + connection.body_came / settings.body_bytes_per_s
        if waited_s <= allowed_s:
            return None
        return InvalidArgumentError(
            f"did not come within the {allowed_s:.0f} s that gateway.body_timeout_s and body_bytes_per_s allow",
            field="body",
        )
