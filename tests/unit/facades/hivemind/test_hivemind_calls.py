"""How a call leaves: with an answer, a refusal, a status, or as something that nobody thought of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    InternalError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from arcray.core.ids import AccountId
from arcray.facades.hivemind.callers import ANYBODY, Caller, Callers
from arcray.facades.hivemind.calls import Call, Surface
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.refusals import ErrorCode, Subject
from arcray.facades.hivemind.tokens import KEY_BYTES, Tokens
from arcray.testing.clock import FakeClock

TOKENS = Tokens(b"k" * KEY_BYTES)
STOP = pool.StopTaskRequest(task_id="t").SerializeToString()
MASTER = pool.DESCRIPTOR.services_by_name["MasterNodeService"]


class Context:
    """The part of a call that gRPC keeps."""

    def __init__(self, *authorization: str) -> None:
        self._shown = authorization
        self.trailing: dict[str, str] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "x"), *(("authorization", each) for each in self._shown))

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.trailing = dict(metadata)


class Details:
    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.invocation_metadata = context.invocation_metadata()


class Unread:
    """What a call sends, which nobody may read."""

    def __aiter__(self) -> Unread:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("it is not read")


def served(
    answer: Callable[[Any, Call], Awaitable[Any]], *, method: str = "StopTask", strict: bool = False
) -> Callable[[bytes, Context], Awaitable[Any]]:
    """One method as gRPC calls it."""
    surface = Surface(Callers(TOKENS, strict=strict), FakeClock())
    service = surface.service(MASTER, {method: answer}, Subject.TASK)

    async def call(body: bytes, context: Context) -> Any:
        details: Any = Details(f"/nodepool.MasterNodeService/{method}", context)
        handler: Any = service.service(details)
        assert handler.request_deserializer is None
        if handler.request_streaming:
            return await handler.stream_unary(Unread(), context)
        return await handler.unary_unary(body, context)

    return call


def refusing(error: Exception, code: ErrorCode = ErrorCode.SUCCESS) -> Callable[[Any, Call], Awaitable[Any]]:
    async def method(request: Any, call: Call) -> Any:
        _ = request
        call.code = code
        raise error

    return method


async def test_a_method_hears_who_calls_and_what_is_asked() -> None:
    heard: list[object] = []

    async def method(request: pool.StopTaskRequest, call: Call) -> pool.StopTaskResponse:
        heard.extend([request.task_id, call.caller, call.now])
        return pool.StopTaskResponse(success=True)

    token = TOKENS.issue(AccountId("ana"), FakeClock().now())
    for context in (Context(f"Bearer {token}"), Context()):
        assert (await served(method)(STOP, context)).success
        assert context.trailing == {}
    now = FakeClock().now()
    assert heard == ["t", Caller(AccountId("ana")), now, "t", ANYBODY, now]


async def test_a_refusal_is_an_answer_with_both_codes() -> None:
    context = Context()
    answer = await served(refusing(NotFoundError("no such task", field="id")))(STOP, context)
    assert answer == pool.StopTaskResponse(success=False, message="task_id: no such task")
    assert context.trailing == {"hivemind-error-code": "3001", "arcray-code": "NOT_FOUND"}


async def test_a_method_that_knows_more_says_which_code() -> None:
    context = Context()
    await served(refusing(ConflictError("x"), ErrorCode.TASK_CANCELLED))(STOP, context)
    assert context.trailing["hivemind-error-code"] == "3003"


async def test_an_answer_about_what_ended_badly_has_the_documents_code() -> None:
    async def method(request: Any, call: Call) -> pool.StopTaskResponse:
        _ = request
        call.code = ErrorCode.TASK_FAILED
        return pool.StopTaskResponse(success=True)

    context = Context()
    assert (await served(method)(STOP, context)).success
    assert context.trailing == {"hivemind-error-code": "3002"}


@pytest.mark.parametrize("error", [UnavailableError("away"), InternalError()])
async def test_what_is_worth_another_try_is_a_status(error: ArcrayError) -> None:
    context = Context()
    with pytest.raises(type(error)):
        await served(refusing(error))(STOP, context)
    assert context.trailing == {"hivemind-error-code": "9999"}


async def test_what_nobody_thought_of_has_the_documents_code_too() -> None:
    context = Context()
    with pytest.raises(ZeroDivisionError):
        await served(refusing(ZeroDivisionError()))(STOP, context)
    assert context.trailing == {"hivemind-error-code": "9999"}


async def test_an_answer_that_cannot_refuse_leaves_it_to_a_status() -> None:
    context = Context()
    with pytest.raises(NotFoundError, match="task_id: none"):
        await served(refusing(NotFoundError("none", field="id")), method="GetAllTasks")(b"", context)
    assert context.trailing == {"hivemind-error-code": "3001"}


@pytest.mark.parametrize("shown", [("Bearer x",), ("Basic x",), ("a", "b")])
async def test_wrong_credentials_of_a_call_are_a_status_whatever_its_answer_has(shown: tuple[str, ...]) -> None:
    context = Context(*shown)
    with pytest.raises(UnauthenticatedError, match=r"^authorization: "):
        await served(refusing(AssertionError("it is not called")))(STOP, context)
    assert context.trailing == {"hivemind-error-code": "1004"}


async def test_credentials_are_looked_at_before_the_request_is_received() -> None:
    with pytest.raises(UnauthenticatedError):
        await served(refusing(AssertionError()), strict=True)(b"\xff", Context())


async def test_bytes_that_are_no_message_are_refused() -> None:
    context = Context()
    answer = await served(refusing(AssertionError()))(b"\xff", context)
    assert answer == pool.StopTaskResponse(success=False, message="message: is no StopTaskRequest")
    assert context.trailing == {"hivemind-error-code": "9999", "arcray-code": "INVALID_ARGUMENT"}


def test_a_method_that_the_contract_has_not_is_found_when_the_gateway_starts() -> None:
    with pytest.raises(KeyError):
        served(refusing(AssertionError()), method="Fly")


async def test_what_a_large_answer_takes_is_kept_until_it_was_written() -> None:
    steps: list[object] = []

    async def method(request: Any, call: Call) -> pool.GetTaskResultResponse:
        _ = request
        assert call.until_sent is not None
        call.until_sent.callback(steps.append, "let go")
        return pool.GetTaskResultResponse(success=True, result_data=b"r")

    class Writing(Context):
        async def write(self, message: object) -> None:
            steps.append(message)

    service: Any = Surface(Callers(TOKENS, strict=False), FakeClock()).service(
        MASTER, {"GetTaskResult": method}, Subject.TASK
    )
    context = Writing()
    handler = service.service(Details("/nodepool.MasterNodeService/GetTaskResult", context))
    await handler.unary_stream(b"", context)
    assert steps == [pool.GetTaskResultResponse(success=True, result_data=b"r"), "let go"]
