"""uvicorn's protocols where they must do otherwise here: what a connection has sent is counted, and refusals are ours.

What lives here: the few overridden methods, and turns between the portions of what a WebSocket sends. What does not:
portions and limits themselves (frames), time (patience). Both classes stand on names that uvicorn
does not promise; the constraints pin it, and ``tests/integration/gateway`` meets every one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong, InvalidState, RequestLineTooLong, TooManyHeaders
from websockets.frames import Frame
from websockets.http11 import Request as HandshakeRequest

from arcray.core.errors import ArcrayError, InvalidArgumentError, UnavailableError
from arcray.gateway.frames import FrameLimit, PortionedServer
from arcray.gateway.heads import HeadLimit, Refusal
from arcray.wire.problem import problem_response
from arcray.wire.sockets import WRITE_NOW

__all__ = ["HttpProtocol", "WebSocketProtocol"]

_log = logging.getLogger(__name__)

_NOT_UTF8: Final = 1007
_GOING_AWAY: Final = 1001
_POLICY: Final = 1008
_PORTION: Final = 64  # frames: a millisecond or two, with what their messages cost the application
_LINGER_S: Final = 1.0
_SURPLUS: Final = Refusal(
    UnavailableError("this gateway has as many connections as gateway.max_connections allows"),
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection.

    A head is judged once, when it is complete. Until then, and while trailers are read, only bytes are counted: those
    of which neither a head nor a body has come yet.

    Every request passes ``data_received`` and ``on_headers_complete``. They call uvicorn's by its name, which costs
    less than ``super()``.

    Args:
        head_limit: what is too much is answered 431, or 414, and closed.
        max_connections: of the listener, and how many requests it serves at once; more are answered 503, and closed,
            those that want to become WebSockets too.
    """

    def __init__(self, *args: Any, head_limit: HeadLimit, max_connections: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_limit = head_limit
        self._max_connections = max_connections
        self._refusal: Refusal | None = None
        self._surplus: Refusal | None = None
        self._read = 0  # bytes of the newest read
        self._futile = 0
        self._counted: RequestResponseCycle | None = None
        self._came = 0

    def data_received(self, data: bytes) -> None:
        """Parses, and refuses a head or trailers that are too long before their end; nothing after a refusal."""
        if self._refusal is not None:
            return
        self._read = read = len(data)
        self._futile += read
        HttpToolsProtocol.data_received(self, data)
        if self._futile > self._head_limit.size_bytes and self._refusal is None:
            self._refuse(self._head_limit.too_long(self.url))

    def on_headers_complete(self) -> None:
        """Judges the head; one that is too much has an application of its own, which refuses it when its turn comes."""
        if len(self.connections) >= self._max_connections or len(self.tasks) >= self._max_connections:
            self._serve_last(_overloaded)
            self._surplus = _SURPLUS
        if self._futile + self._read > self._head_limit.size_bytes or len(self.headers) > self._head_limit.headers:
            found = self._head_limit.judge(self.url, self.headers)
            if found is not None:
                self._serve_last(partial(_refused, found))
                self._refusal = found
                self.url = b"/"  # of a long one the parser would say only that it is none
        self._futile = 0
        HttpToolsProtocol.on_headers_complete(self)
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.headers = []  # trailers go there, and are not taken for headers

    def handle_websocket_upgrade(self) -> None:
        """Hands the connection over, unless its head was refused or one is too many: no application answers it then."""
        refusal = self._refusal or self._surplus
        if refusal is None:
            super().handle_websocket_upgrade()
        else:
            self._refuse(refusal)

    def on_body(self, body: bytes) -> None:
        """Counts what comes."""
        self._futile = 0
        if self.cycle is not self._counted:
            self._counted, self._came = self.cycle, 0
        self._came += len(body)
        super().on_body(body)

    @property
    def body_came(self) -> int:
        """Bytes of the body of the newest request that are here."""
        return self._came if self.cycle is self._counted else 0

    def expire(self, error: ArcrayError) -> None:
        """Answers 408 where nothing was answered yet, and closes; what the application waits for does not come."""
        self._answer(Refusal(error, HTTPStatus.REQUEST_TIMEOUT))
        self.transport.close()

    def waiting_for_headers(self) -> object | None:
        """Returns something of its own for every wait for a request's headers; None while there is no such wait.

        The wait between two requests is none: uvicorn has a timer for it, until the first byte of the next one.
        """
        if self._refusal is not None or (self.cycle is not None and not self.cycle.response_complete):
            return None  # the next one may come as slowly as this one is answered
        if self._heading():
            return self.scope
        return self if self.timeout_keep_alive_task is None else None

    def waiting_for_body(self) -> object | None:
        """Returns something of its own for every body that the client owes; None where it owes none or none is read."""
        cycle = self.cycle
        if self._refusal is not None or cycle is None or self._heading():
            return None
        if not cycle.more_body or cycle.response_complete:
            return None
        return None if self.flow.read_paused or cycle.waiting_for_100_continue else cycle

    def _serve_last(self, app: ASGIApp) -> None:
        """Has an application that ends the connection answer what has come."""
        own: Any = app  # the server's types of ASGI are not Starlette's
        self.app = own

    def _refuse(self, refusal: Refusal) -> None:
        """Answers, and reads on for a moment: a close that finds unread data resets what was written."""
        self._refusal = refusal
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (self._heading() or cycle.response_started):
            self.transport.close()  # ours would be read as part of the answer that is on its way
            return
        self._answer(refusal)
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _answer(self, refusal: Refusal) -> None:
        """Writes a refusal where nothing was answered yet; what the application waits for does not come."""
        cycle = self._unanswered()
        if cycle is not None or self._heading():
            self.transport.write(refusal.as_http())
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()

    def _heading(self) -> bool:
        """Whether a request has begun whose headers are not all here."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def _unanswered(self) -> RequestResponseCycle | None:
        cycle = self.cycle
        return None if cycle is None or self._heading() or cycle.response_started else cycle


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket.

    What a read has brought is parsed in portions, and between two of them the loop serves others. The next one waits
    until the application has taken the last, and the client what was written to it. Reading is paused meanwhile, so
    that little waits here whatever is sent: a portion of messages, and what two reads bring.

    ``read_paused``, which is uvicorn's, says that the application has a portion to take.

    Args:
        frames_per_s: that the client may send; 0 is no limit.
        on_flood: called once when it has sent more, and is closed with 1008.
    """

    def __init__(self, *args: Any, frames_per_s: int, on_flood: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn: PortionedServer = PortionedServer(max_size=self.config.ws_max_size, logger=self.logger)
        self._frames_per_s = frames_per_s
        self._limit = FrameLimit(frames_per_s)
        self._on_flood = on_flood
        self._flooded = False
        self._fragments = bytearray()
        self._turn: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """Parses a portion, or keeps what comes until its turn; of a client that is closed for a flood, neither."""
        if self._flooded:
            return
        if self.read_paused:  # the application has not taken the last portion; most have when more comes
            self.conn.allow(0)
            self.conn.receive_data(data)
            self.transport.pause_reading()
            return
        self.conn.allow(_PORTION)
        super().data_received(data)
        if not self.handshake_initiated:  # the head comes first and whole, so the parser has refused it
            self._refuse_handshake()
        elif not self.read_paused:  # else the application has it go on
            self._go_on()

    def handle_connect(self, event: HandshakeRequest) -> None:
        """Starts the application, which may write without a coroutine (``wire.sockets.WRITE_NOW``)."""
        super().handle_connect(event)
        if not self.close_sent:  # else the handshake was refused
            self.scope["extensions"][WRITE_NOW] = {"function": self.write_now}

    def write_now(self, text: str) -> bool:
        """Writes a message if the client takes it now; returns whether it did."""
        if not self.handshake_complete or self.close_sent or self.disconnected or not self.writable.is_set():
            return False
        try:
            self.conn.send_text(text.encode())
        except InvalidState:  # it has sent a close that was not looked at yet
            return False
        self.transport.write(b"".join(self.conn.data_to_send()))
        return True

    def waiting_to_open(self) -> object | None:
        """Returns something of its own until the application has answered the handshake; then None."""
        return None if self.handshake_complete else self

    def expire(self, error: ArcrayError) -> None:
        """Answers 503, and closes; the application is told that the client has gone."""
        self._end_handshake(Refusal(error, HTTPStatus.SERVICE_UNAVAILABLE))

    def resume_writing(self) -> None:
        """Goes on: the client has taken what was written."""
        super().resume_writing()
        self._go_on()

    async def receive(self) -> ASGIReceiveEvent:
        """Returns the next message, and goes on once the application has taken all of a portion."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """Sends; no coroutine of its own, because every message would pay for it."""
        return self._send_close(message) if message["type"] == "websocket.close" else super().send(message)

    def shutdown(self) -> None:
        """Closes with 1001, the server goes away (RFC 6455, section 7.4.1), as the protocols have it; not with 1012."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _GOING_AWAY})
        self.conn.send_close(_GOING_AWAY)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def handle_events(self) -> None:
        """Hands on what a portion brought, unless the client sends too much."""
        if self._limit.take(len(self.conn.events), self.loop.time()):
            super().handle_events()
        else:
            self._close_flood()

    def handle_cont(self, event: Frame) -> None:
        """Gathers the fragments of a message in one place; apart, those of a byte take sixty times their size."""
        self._fragments += b"".join((*self.frames, event.data))
        self.frames = []
        if event.fin:
            self.frames, self._fragments = [bytes(self._fragments)], bytearray()
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Hands a message on; text that is no UTF-8 closes with 1007 (RFC 6455, section 8.1), and is no news.

        Reading is not paused for it: to pause and resume costs system calls, and most messages are taken at once.
        """
        (data,), self.frames = self.frames, []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self.conn.send_close(_NOT_UTF8)
                self.handle_parser_exception()
                return
        self.read_paused = True

    def _go_on(self) -> None:
        """Reads on, or has the next portion wait for its turn; nothing where somebody else will have it go on."""
        if self.read_paused or self._flooded or self.transport.is_closing():
            return
        if not self.writable.is_set():
            self.transport.pause_reading()
        elif self.conn.behind:
            self.transport.pause_reading()
            if self._turn is None:
                self._turn = self.loop.call_soon(self._take_turn)
        else:
            self.transport.resume_reading()

    async def _send_close(self, message: ASGISendEvent) -> None:
        await super().send(message)
        self._go_on()  # nobody takes messages any more, and the client's answer is behind those that are here

    def _refuse_handshake(self) -> None:
        reason: BaseException | None = self.conn.handshake_exc
        match reason:
            case RequestLineTooLong():
                field, status = "target", HTTPStatus.REQUEST_URI_TOO_LONG
            case HeaderLineTooLong() | TooManyHeaders():
                field, status = "headers", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            case _:
                field, status = "headers", HTTPStatus.BAD_REQUEST
                reason = (reason and reason.__cause__) or reason
        self._end_handshake(Refusal(InvalidArgumentError(f"cannot open a WebSocket: {reason}", field=field), status))

    def _end_handshake(self, refusal: Refusal) -> None:
        self.handshake_complete = self.close_sent = self.disconnected = True
        self.transport.write(refusal.as_http())
        self.transport.close()

    def _take_turn(self) -> None:
        self._turn = None
        if self.writable.is_set() and not self.read_paused and not self.transport.is_closing():
            self.data_received(b"")

    def _close_flood(self) -> None:
        """Closes with 1008, and reads on for a moment: a close that finds unread data resets what was written."""
        reason = f"more frames than the {self._frames_per_s} a second of gateway.ws_frames_per_s"
        self._flooded = self.close_sent = self.disconnected = True
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _POLICY, "reason": reason})
        self.conn.allow(_PORTION)  # else it would keep what it has not parsed
        self.conn.fail(_POLICY, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.write_eof()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(_LINGER_S, self.transport.close)
        self.transport.resume_reading()
        _log.info("websocket closed", extra={"reason": "flood", "address": self.client and self.client[0]})
        self._on_flood()


async def _refused(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    await refusal.response()(scope, receive, send)


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    response = problem_response(_SURPLUS.error, instance=request.url.path, headers={"Connection": "close"})
    await response(scope, receive, send)
