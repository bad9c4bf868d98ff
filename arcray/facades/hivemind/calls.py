"""One call of a method: who makes it, what it answers, how a refusal leaves. No other module here knows gRPC's server.

Handlers are made of descriptors: a service's methods by name, with the messages that the contract gives them. What a
method raises is an answer with ``success`` false where its message has one, else a status; either way the document's
code is in the trailing metadata.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from arcray.core.errors import ArcrayError
from arcray.core.ports import Clock
from arcray.facades.hivemind.callers import ANYBODY, Caller, Callers
from arcray.facades.hivemind.refusals import CODE_KEY, ErrorCode, Subject, answer, as_told, code_of, metadata

__all__ = ["Call", "Method", "Surface"]

_AUTHORIZATION: Final = "authorization"


@dataclass(slots=True)
class Call:
    """What a method knows beside its request.

    Args:
        caller: by the metadata alone.
        code: that the answer carries; a method sets it where it knows more than the error that it raises, or answers
            with a task that ended badly.
    """

    caller: Caller
    now: datetime
    code: ErrorCode = ErrorCode.SUCCESS


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
        handlers = {
            name: self._handler(service.methods_by_name[name], method, subject) for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _handler(self, contract: MethodDescriptor, method: Method, subject: Subject) -> grpc.RpcMethodHandler[Any, Any]:
        name = contract.name
        request_of = GetMessageClass(contract.input_type)
        response_of: Any = GetMessageClass(contract.output_type)

        async def serve(request: Any, context: Any) -> Any:
            call = Call(ANYBODY, self._clock.now())
            try:
                shown = [value for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION]
                call.caller = self._callers.of_call(name, shown, call.now)
                response = await method(request, call)
            except ArcrayError as error:
                code = code_of(error, subject) if call.code is ErrorCode.SUCCESS else call.code
                response = answer(response_of, error, subject)
                if response is None:  # a status, which the gateway makes of it
                    context.set_trailing_metadata(((CODE_KEY, str(code.value)),))
                    raise as_told(error, subject) from error
                context.set_trailing_metadata(metadata(error, subject, code))
                return response
            if call.code is not ErrorCode.SUCCESS:
                context.set_trailing_metadata(((CODE_KEY, str(call.code.value)),))
            return response

        return grpc.unary_unary_rpc_method_handler(serve, request_of.FromString, response_of.SerializeToString)
