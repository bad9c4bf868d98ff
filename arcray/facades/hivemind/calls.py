"""One call of a method: who makes it, what it answers, how a refusal leaves. No other module here knows gRPC's server.

Handlers are made of descriptors: a service's methods by name, with the messages that the contract gives them. What a
method raises is an answer with ``success`` false where its message has one, else a status; either way the document's
code is in the trailing metadata. Wrong credentials in the metadata of a call are a status always. Requests are read
here and not by gRPC, which would call bytes that are no message an error of ours.

Answers that may be large are written here and not left to gRPC, so that it is known when the client has them: until
then they are in memory. A write cannot be given up, so who does not read is left when the connection or the call ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from arcray.core.errors import ArcrayError, InvalidArgumentError, UnauthenticatedError
from arcray.core.ports import Clock
from arcray.facades.hivemind.callers import Caller, Callers
from arcray.facades.hivemind.own_words import PREFIX, Words
from arcray.facades.hivemind.refusals import CODE_KEY, ErrorCode, Subject, answer, as_told, code_of, metadata

__all__ = ["Call", "Method", "Surface"]

_AUTHORIZATION: Final = "authorization"
_LARGE: Final = frozenset({"GetTaskResult"})
"""Methods whose answers may have 100 MiB."""


@dataclass(slots=True)
class Call:
    """What a method knows beside its request.

    Args:
        caller: by the metadata alone.
        words: what arcray's own workers say beside the request.
        code: that the answer carries; a method sets it where it knows more than the error that it raises, or answers
            with a task that ended badly.
        until_sent: what the method keeps until its answer was sent; None where it is small.
    """

    caller: Caller
    now: datetime
    words: Words = field(default_factory=dict)
    code: ErrorCode = ErrorCode.SUCCESS
    until_sent: AsyncExitStack | None = None


Method: TypeAlias = Callable[[Any, Call], Awaitable[Any]]
"""Answers a request; raises an ``ArcrayError`` to refuse it."""


class Surface:
    """Makes the handlers of services.

    Args:
        callers: know who calls.
    """

    def __init__(self, callers: Callers, clock: Clock) -> None:
        self._callers = callers
        self._clock = clock

    def service(
        self, service: ServiceDescriptor, methods: Mapping[str, Method], subject: Subject
    ) -> grpc.GenericRpcHandler[Any, Any]:
        """Returns the handlers of one service.

        Args:
            methods: by name, of those that the contract has; the others are answered UNIMPLEMENTED.
            subject: what its refusals are about.
        """
        handlers = {}
        for name, method in methods.items():
            contract = service.methods_by_name[name]
            handlers[f"/{service.full_name}/{name}"] = _Handlers(
                name, self._handler(contract, method, subject), self._refusal(contract, subject)
            )
        return _Guarded(handlers, self._callers, self._clock)

    def _refusal(self, contract: MethodDescriptor, subject: Subject) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns what answers a call that shows wrong credentials: it reads nothing of what the call sends."""
        name = contract.name

        async def refuse(requests: object, context: Any) -> None:
            _ = requests
            try:
                self._callers.of_call(name, _shown(context.invocation_metadata())[0], self._clock.now())
            except ArcrayError as error:
                _refuse(error, subject, context, code_of(error, subject))
            raise UnauthenticatedError("is not valid yet", field=_AUTHORIZATION)  # the clock went back meanwhile

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _handler(self, contract: MethodDescriptor, method: Method, subject: Subject) -> grpc.RpcMethodHandler[Any, Any]:
        name = contract.name
        request_of: Any = GetMessageClass(contract.input_type)
        response_of: Any = GetMessageClass(contract.output_type)

        def refuse(error: ArcrayError, call: Call | None, context: Any) -> Any:
            code = code_of(error, subject) if call is None or call.code is ErrorCode.SUCCESS else call.code
            response = None if call is None else answer(response_of, error, subject)
            if response is None:
                _refuse(error, subject, context, code)
            context.set_trailing_metadata(metadata(error, subject, code))
            return response

        async def serve(body: bytes, context: Any, until_sent: AsyncExitStack | None = None) -> Any:
            now = self._clock.now()
            call = None
            context.set_trailing_metadata(_FAILED)  # for what nobody thought of; every other way out sets its own
            try:
                shown, words = _shown(context.invocation_metadata())
                call = Call(self._callers.of_call(name, shown, now), now, words, until_sent=until_sent)
                response = await method(_read(request_of, body), call)
            except ArcrayError as error:
                return refuse(error, call, context)
            context.set_trailing_metadata(_told(call.code))
            return response

        async def write(body: bytes, context: Any) -> None:
            async with AsyncExitStack() as until_sent:
                await context.write(await serve(body, context, until_sent))

        if name in _LARGE:  # to a client it is one answer all the same
            return grpc.unary_stream_rpc_method_handler(write, None, response_of.SerializeToString)
        return grpc.unary_unary_rpc_method_handler(serve, None, response_of.SerializeToString)


class _Handlers(NamedTuple):
    """One method.

    Args:
        own: answers it.
        refusing: answers calls with wrong credentials.
    """

    name: str
    own: grpc.RpcMethodHandler[Any, Any]
    refusing: grpc.RpcMethodHandler[Any, Any]


class _Guarded(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """The handlers of one service; who shows wrong credentials gets one that reads no message, of 100 MiB maybe."""

    def __init__(self, methods: Mapping[str, _Handlers], callers: Callers, clock: Clock) -> None:
        self._methods = methods
        self._callers = callers
        self._clock = clock

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of a call; asked before its message is read."""
        found = self._methods.get(handler_call_details.method)
        if found is None:
            return None
        try:
            self._callers.of_call(found.name, _shown(handler_call_details.invocation_metadata)[0], self._clock.now())
        except ArcrayError:
            return found.refusing
        return found.own


def _refuse(error: ArcrayError, subject: Subject, context: Any, code: ErrorCode) -> NoReturn:
    """Refuses by a status, which the gateway makes of it."""
    context.set_trailing_metadata(_told(code))
    raise as_told(error, subject) from error


def _told(code: ErrorCode) -> tuple[tuple[str, str], ...]:
    return () if code is ErrorCode.SUCCESS else ((CODE_KEY, str(code.value)),)


_FAILED: Final = _told(ErrorCode.INTERNAL_ERROR)


def _shown(metadata: Any) -> tuple[list[str], Words]:
    """Returns every authorization that a call shows, and arcray's own words."""
    authorizations, words = [], {}
    for key, value in metadata or ():
        if key == _AUTHORIZATION:
            authorizations.append(value)
        elif key.startswith(PREFIX) and isinstance(value, str):  # a key in -bin has bytes
            words[key] = value
    return authorizations, words


def _read(request_of: Any, body: bytes) -> Any:
    """Returns the message of some bytes.

    Raises:
        InvalidArgumentError: they are none, or a text in it is no UTF-8.
    """
    try:
        return request_of.FromString(body)
    except DecodeError as error:
        raise InvalidArgumentError(f"is no {request_of.DESCRIPTOR.name}", field="message") from error
