"""The gRPC listener: services of the facades, health and reflection, on the replica's event loop.

What lives here: the server, its limits, and what our errors are in gRPC's codes. What does not: any service. An error
leaves with its code and message, and with our stable code as trailing metadata beside what the facade says of it;
anything unexpected leaves as INTERNAL with nothing of its traceback, which the log has.

Handlers are shielded where they are registered and not by an interceptor, which costs a fifth of a bare call. A service
is asked for its handler before the message of a call is read: there it can refuse by the metadata, with a handler that
takes a stream of messages and reads none. When a message is read, ``bodies`` decides.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from arcray.config import GatewaySettings
from arcray.core.errors import (
    ArcrayError,
    Code,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from arcray.gateway.bodies import Bodies
from arcray.wire.facade import RegisterServices
from arcray.wire.system import SystemClock

__all__ = ["STATUS", "RpcListener"]

_log = logging.getLogger(__name__)

STATUS: Final[Mapping[Code, grpc.StatusCode]] = {
    Code.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Code.INSUFFICIENT_CREDITS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Code.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Code.IDEMPOTENCY_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Code.STALE_REPORT: grpc.StatusCode.ABORTED,
    Code.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.NO_CANDIDATES: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}
"""The gRPC status of every code; total, and tested to be."""

_CODE_KEY: Final = "arcray-code"
_SWEEP_S: Final = 1.0


class RpcListener:
    """One gRPC listener.

    Args:
        port: 0 lets the system choose, for tests.

    Raises:
        UnavailableError: the address cannot be bound; names it.
    """

    def __init__(self, services: Sequence[RegisterServices], settings: GatewaySettings, port: int) -> None:
        self._drain_s = settings.drain_s
        self._server: grpc.aio.Server = grpc.aio.server(
            maximum_concurrent_rpcs=settings.max_connections,
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", settings.max_body_bytes),
                # Until the client has introduced itself; between calls; and for one that has gone without a word.
                ("grpc.server_handshake_timeout_ms", round(settings.header_timeout_s * 1000)),
                ("grpc.max_connection_idle_ms", round(settings.idle_timeout_s * 1000)),
                ("grpc.keepalive_time_ms", round(settings.idle_timeout_s * 1000)),
                ("grpc.keepalive_timeout_ms", round(settings.write_timeout_s * 1000)),
            ),
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set at import, unseen by the stubs
        self._bodies = Bodies(
            SystemClock(),
            limit_bytes=settings.grpc_bodies_bytes,
            largest_bytes=settings.max_body_bytes,
            timeout_s=settings.grpc_body_timeout_s,
            waiting=max(1, settings.max_connections // 4),
        )
        limits = _Limits(
            self._bodies, _Streams(settings.grpc_body_timeout_s), watchers=max(1, settings.max_connections // 4)
        )
        shielded: Any = _Shielding(self._server, limits)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, shielded)
        self._names = [name for register in services for name in register(shielded)]
        shown = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        servicer: Any = reflection.aio.ReflectionServicer(shown)  # type: ignore[attr-defined]  # as that of health
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, shielded)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen at {host}:{port} for gRPC") from error
        self._ended: asyncio.Task[bool] | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens."""
        await self._server.start()
        self._ended = asyncio.create_task(self._server.wait_for_termination(), name=f"grpc {self.port}")
        self._sweeper = asyncio.create_task(self._sweep(), name=f"grpc bodies {self.port}")
        for name in ("", *self._names, health.SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    @property
    def has_room(self) -> bool:
        """Whether one more of the largest messages may come now."""
        return self._bodies.has_room

    @property
    def waiting(self) -> int:
        """How many calls wait for that, with their message unread."""
        return self._bodies.waiting

    def check(self) -> None:
        """Raises ``UnavailableError`` when it listens no more."""
        if self._ended is None or self._ended.done():
            raise UnavailableError("the gRPC listener has ended")

    async def drain(self) -> None:
        """Tells watchers of health, takes no more calls, lets those under way end within the drain time."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._drain_s)
        if self._ended is not None:
            await self._ended
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._bodies.give_up_late()


@dataclass(frozen=True, slots=True)
class _Limits:
    """What bounds the calls of a server.

    Args:
        watchers: calls of one method that have one message and last as long as their client wants.
    """

    bodies: Bodies
    streams: _Streams
    watchers: int


class _Shielding:
    """What services register at: the server, where what their handlers raise becomes a status."""

    def __init__(self, server: grpc.aio.Server, limits: _Limits) -> None:
        self._server = server
        self._limits = limits

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self._server.add_generic_rpc_handlers([_Shield(each, self._limits) for each in handlers])

    def add_registered_method_handlers(
        self, service_name: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        # Generated code says here again what it has added above, and servers without threads make nothing of it.
        _ = service_name, handlers


class _Shield(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Turns what the handlers of one service raise into statuses, and bounds what they hold."""

    def __init__(self, inner: grpc.GenericRpcHandler[Any, Any], limits: _Limits) -> None:
        self._inner = inner
        self._limits = limits
        self._shielded: dict[int, tuple[Any, Any]] = {}  # by identity, with the handler that it is of

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler: Any = self._inner.service(handler_call_details)
        if handler is None:  # no such method, which the server answers itself
            return None
        known = self._shielded.get(id(handler))
        if known is not None:
            return known[1]
        shielded = self._shield(handler)
        if len(self._shielded) < _MOST_HANDLERS:  # a service has the same ones each time
            self._shielded[id(handler)] = (handler, shielded)
        return shielded

    def _shield(self, handler: Any) -> Any:
        # A handler is a named tuple in fact; the stubs know only its attributes.
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        inner = getattr(handler, kind)
        if not handler.request_streaming:
            streaming = kind.replace("unary_", "stream_", 1)
            read = _guarded(self._read(inner, streams=kind == "unary_stream"))
            return handler._replace(**{kind: None, streaming: read, "request_streaming": True})
        bounded = inner if kind == "stream_unary" else self._limits.streams.bounded(inner)
        return handler._replace(**{kind: _guarded(bounded)})

    def _read(self, inner: Callable[[Any, Any], Any], *, streams: bool) -> Callable[[Any, Any], Any]:
        """Returns a handler of a stream of messages that gives the first of them to one of a message.

        Args:
            streams: that one answers more than once, as a generator or by writing to the context.
        """
        bodies, watchers = self._limits.bodies, _Watchers(self._limits.watchers)

        async def read(context: Any) -> Any:
            request = await bodies.receive(context.read, lambda: context.peer().rpartition(":")[0])
            if request is _END:
                raise InvalidArgumentError("is absent", field="message")
            return request

        async def call(_: object, context: Any) -> Any:
            request = await read(context)
            size_bytes = _size(request)
            bodies.hold(size_bytes)
            try:
                return await inner(request, context)
            finally:
                bodies.let_go(size_bytes)

        async def begin(context: Any) -> Any:
            request = await read(context)
            size_bytes = _size(request)
            if size_bytes > _STREAM_BYTES:
                raise ResourceExhaustedError(f"has {size_bytes} bytes, at most {_STREAM_BYTES}", field="message")
            return request

        async def watched(_: object, context: Any) -> None:
            with watchers.one():
                await inner(await begin(context), context)

        async def stream(_: object, context: Any) -> AsyncIterator[Any]:
            with watchers.one():
                async for response in inner(await begin(context), context):
                    yield response

        if not streams:
            return call
        return stream if inspect.isasyncgenfunction(inner) else watched


class _Watchers:
    """Bounds the calls of one method that have one message and last as long as their client wants."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._here = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts one for the time of the block.

        Raises:
            ResourceExhaustedError: there are enough.
        """
        if self._here >= self._most:
            raise ResourceExhaustedError(f"{self._most} such streams are open already")
        self._here += 1
        try:
            yield
        finally:
            self._here -= 1


class _Streams:
    """Bounds the calls whose messages are read one by one, of any size, without a turn."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._open = 0

    def bounded(self, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            if self._open >= _MOST_STREAMS:
                raise ResourceExhaustedError(f"{_MOST_STREAMS} such streams are open already")
            self._open += 1
            try:
                async with asyncio.timeout(self._longest_s):
                    async for response in inner(requests, context):
                        yield response
            except TimeoutError:
                raise DeadlineExceededError(f"a stream lasts {self._longest_s:g} s at the most") from None
            finally:
                self._open -= 1

        return stream


_END: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]  # exported, and unseen by the stubs
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_MOST_HANDLERS: Final = 1_000
_STREAM_BYTES: Final = 64 * 1024  # a stream keeps its message, of which health has the name of a service
_MOST_STREAMS: Final = 8  # of reflection, which nothing but tools use


def _size(request: Any) -> int:
    return len(request) if isinstance(request, bytes) else int(request.ByteSize())


def _guarded(inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Returns the handler with its exceptions turned into statuses; it stays a coroutine or a generator as it was."""

    async def call(request: Any, context: Any) -> Any:
        try:
            return await inner(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            await _abort(context, error)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(request, context):
                yield response
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            await _abort(context, error)

    return stream if inspect.isasyncgenfunction(inner) else call


async def _abort(context: Any, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error  # the handler has set its own status
    if not isinstance(error, ArcrayError):
        _log.error("gRPC call failed", exc_info=error)
        error = InternalError()
    elif error.code is Code.INTERNAL:
        _log.error("gRPC call failed", exc_info=error)
    own = context.trailing_metadata() or ()  # what the facade says of it beside our code
    await context.abort(STATUS[error.code], str(error), (*own, (_CODE_KEY, error.code.value)))
