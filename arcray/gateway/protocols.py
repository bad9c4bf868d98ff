"""uvicorn's protocols where they must do otherwise here: what a connection has sent is counted, and refusals are ours.

What lives here: the few overridden methods. What does not: time (patience). Both classes stand on names that uvicorn
does not promise; the constraints pin it, and ``tests/integration/gateway`` meets every one of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeGuard

from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.wire.problem import problem_response

__all__ = ["HttpProtocol", "WebSocketProtocol", "is_http"]

_NOT_UTF8 = 1007


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counted: RequestResponseCycle | None = None
        self._came = 0

    def on_body(self, body: bytes) -> None:
        """Counts what comes."""
        if self.cycle is not self._counted:
            self._counted, self._came = self.cycle, 0
        self._came += len(body)
        super().on_body(body)

    @property
    def body_came(self) -> int:
        """Bytes of the body of the newest request that are here."""
        return self._came if self.cycle is self._counted else 0

    def expire(self, error: InvalidArgumentError) -> None:
        """Answers 408 where nothing was answered yet, and closes; what the application waits for does not come."""
        cycle = self._unanswered()
        if cycle is not None or self._heading():
            refusal = problem_response(error, status=408, headers={"Connection": "close"})
            head = b"".join(b"%b: %b\r\n" % header for header in refusal.raw_headers)
            self.transport.write(b"".join((b"HTTP/1.1 408 Request Timeout\r\n", head, b"\r\n", refusal.body)))
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def waiting_for_headers(self) -> object | None:
        """Returns something of its own for every wait for a request's headers; None while there is no such wait.

        The wait between two requests is none: uvicorn has a timer for it, until the first byte of the next one.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # the next one may come as slowly as this one is answered
        if self._heading():
            return self.scope
        return self if self.timeout_keep_alive_task is None else None

    def waiting_for_body(self) -> object | None:
        """Returns something of its own for every body that the client owes; None where it owes none or none is read."""
        cycle = self.cycle
        if cycle is None or self._heading() or not cycle.more_body or cycle.response_complete:
            return None
        return None if self.flow.read_paused or cycle.waiting_for_100_continue else cycle

    def _heading(self) -> bool:
        """Whether a request has begun whose headers are not all here."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def _unanswered(self) -> RequestResponseCycle | None:
        cycle = self.cycle
        return None if cycle is None or self._heading() or cycle.response_started else cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        own: Any = _overloaded if app is service_unavailable else app  # the server's types of ASGI are not Starlette's
        super()._start_asgi_task(cycle, own)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def send_receive_event_to_app(self) -> None:
        """Hands a message on; text that is no UTF-8 closes with 1007 (RFC 6455, section 8.1), and is no news."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(_NOT_UTF8)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()


def is_http(protocol: asyncio.BaseProtocol) -> TypeGuard[HttpProtocol]:
    """Whether a connection speaks HTTP, and is no WebSocket."""
    return isinstance(protocol, HttpProtocol)


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    error = UnavailableError("this gateway has as many connections as gateway.max_connections allows")
    request = Request(scope)
    await problem_response(error, instance=request.url.path, headers={"Connection": "close"})(scope, receive, send)
