"""Dialling a worker: what it answered, in words that say what is certain. The only module that calls workers by gRPC.

A worker runs strangers' tasks, so it matters more than for other calls whether it has got one: what was certainly not
sent may go elsewhere at once, what may have arrived must be stopped first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio

from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words
from arcray.facades.hivemind.uploads import TASK_BYTES

__all__ = ["Answer", "Certainty", "Dial", "GrpcChannel", "WorkerChannel"]

_SERVICE: Final = "/nodepool.WorkerNodeService"
_ENVELOPE_BYTES: Final = 1 << 20
_ANSWER_BYTES: Final = 1 << 20  # it has a flag and a sentence to say
_WORDS: Final = 512
_BACKOFF_MS: Final = 2_000
_IDLE_MS: Final = 2**31 - 1  # a connection that we hang up on by ourselves would look like a worker that went
_CONNECTED: Final = grpc.ChannelConnectivity.READY

# What a worker, or its server, says before anything of a task was begun.
_REFUSALS: Final = frozenset({
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
})  # fmt: skip


class Certainty(Enum):
    """What is known after a call."""

    ACCEPTED = auto()  # it says that it does
    REFUSED = auto()  # it says that it does not
    UNREACHED = auto()  # it has certainly not heard of it
    UNKNOWN = auto()  # it may have heard of it, and has not answered


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call.

    Args:
        message: for people.
        slow: it was connected, and did not answer in time.
    """

    certainty: Certainty
    message: str = ""
    slow: bool = False


class WorkerChannel(Protocol):
    """The way to one worker."""

    async def reach(self, timeout_s: float) -> bool:
        """Returns whether it can be reached, connecting if need be."""
        ...

    async def execute(self, request: pool.ExecuteTaskRequest, timeout_s: float, words: Words) -> Answer:
        """Asks it to run a task.

        Args:
            timeout_s: of reaching it, and again of its answer.
            words: for arcray's own workers; others ignore them.
        """
        ...

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        """Asks it to end a task; ``REFUSED`` is an answer too: it runs none of that id."""
        ...

    async def broken(self) -> None:
        """Returns once a connection that stood is no more. Connects to nobody by itself."""
        ...

    async def close(self) -> None:
        """Hangs up."""
        ...


Dial: TypeAlias = Callable[[str], WorkerChannel]
"""Returns the way to the worker at ``host:port``. Reaches nobody yet."""


class GrpcChannel:
    """Implements ``WorkerChannel`` by the document's WorkerNodeService, without TLS, as its examples do.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.max_send_message_length", TASK_BYTES + _ENVELOPE_BYTES),
                ("grpc.max_receive_message_length", _ANSWER_BYTES),
                ("grpc.enable_retries", 0),  # what may have arrived is not sent again
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),  # a worker that went and came back is dialled anew
                ("grpc.max_reconnect_backoff_ms", _BACKOFF_MS),
                ("grpc.client_idle_timeout_ms", _IDLE_MS),
            ),
        )
        self._execute: Any = self._method("ExecuteTask", pool.ExecuteTaskResponse)
        self._stop: Any = self._method("StopTaskExecution", pool.StopTaskExecutionResponse)

    async def reach(self, timeout_s: float) -> bool:
        """Returns whether it can be reached, connecting if need be."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def execute(self, request: pool.ExecuteTaskRequest, timeout_s: float, words: Words) -> Answer:
        """Asks it to run a task."""
        return await self._ask(self._execute, request, timeout_s, words)

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        """Asks it to end a task."""
        return await self._ask(self._stop, pool.StopTaskExecutionRequest(task_id=task_id), timeout_s, {})

    async def broken(self) -> None:
        """Returns once a connection that stood is no more. Connects to nobody by itself."""
        while (state := self._channel.get_state()) is not _CONNECTED:
            await self._channel.wait_for_state_change(state)
        await self._channel.wait_for_state_change(_CONNECTED)

    async def close(self) -> None:
        """Hangs up; calls under way end without an answer."""
        await self._channel.close(None)

    def _method(self, name: str, response: Any) -> object:
        return self._channel.unary_unary(
            f"{_SERVICE}/{name}", request_serializer=_serialized, response_deserializer=response.FromString
        )

    async def _ask(self, method: Any, request: Any, timeout_s: float, words: Words) -> Answer:
        if not await self.reach(timeout_s):
            return Answer(Certainty.UNREACHED, f"its worker cannot be reached within {timeout_s:g} s")
        try:
            response = await method(request, timeout=timeout_s, metadata=tuple(words.items()))
        except grpc.aio.AioRpcError as error:
            certainty = Certainty.REFUSED if error.code() in _REFUSALS else Certainty.UNKNOWN
            told = f"its worker answers {error.code().name}: {(error.details() or '')[:_WORDS]}"
            return Answer(certainty, told, slow=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
        if response.success:
            return Answer(Certainty.ACCEPTED, response.message[:_WORDS])
        return Answer(Certainty.REFUSED, f"its worker refuses: {response.message[:_WORDS] or 'without a word'}")


def _serialized(request: Any) -> bytes:
    data: bytes = request.SerializeToString()
    return data
