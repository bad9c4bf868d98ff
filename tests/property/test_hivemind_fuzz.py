"""Whatever a HiveMind request says, it is acted on or refused, and never anything else: translation and the server.

Requests are drawn from their descriptors, so that a field which is added is drawn without anybody's doing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.errors import ArcrayError
from arcray.core.ids import AccountId
from arcray.core.quantity import GIB
from arcray.facades.hivemind import outputs, refusals, tasks, taskworker, users, workers
from arcray.facades.hivemind.callers import ANYBODY, Callers
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.contract import taskworker_pb2
from arcray.facades.hivemind.own_words import Words
from arcray.facades.hivemind.refusals import Subject
from arcray.facades.hivemind.tokens import KEY_BYTES, Tokens
from arcray.testing.builders import T0
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.system import SystemClock
from tests.hivemind_server import hivemind

ANA: Final = AccountId("ana")
TOKENS: Final = Tokens(b"k" * KEY_BYTES)
CALLERS: Final = Callers(TOKENS, strict=False)
WORKER: Final = workers.registration_of(
    pool.RegisterWorkerNodeRequest(node_id="w", hostname="h", cpu_cores=1, port=1), owner=None
)

_TEXT: Final = st.text(max_size=200) | st.sampled_from(["ana", "task-001", "127.0.0.1", "\0", TOKENS.issue(ANA, T0)])
_BYTES: Final = st.binary(max_size=200) | st.binary(max_size=100).map(
    lambda tail: b"PK\3\4" + tail + b"PK\5\6" + bytes(18)
)
_OF: Final[dict[int, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 2),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 2),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
}


@st.composite
def messages(draw: st.DrawFn, of: Descriptor) -> Message:
    """A message with any values in any of its fields."""
    message = GetMessageClass(of)()
    for field in of.fields:
        if draw(st.booleans()):
            if field.message_type is not None:
                getattr(message, field.name).update(draw(st.dictionaries(_TEXT, _TEXT, max_size=3)))
            else:
                setattr(message, field.name, draw(_OF[field.type]))
    return message


def _login(request: Any) -> object:
    shown = users.credentials_of(request)
    return users.opening_of(shown, secret="hash", entry_id="e", initial_balance=100)


def _balance(request: pool.GetBalanceRequest) -> object:
    caller = CALLERS.user_of_message(ANYBODY, request.token, T0)
    users.check_balance_of(request, caller)
    return caller


def _transfer(request: pool.TransferRequest) -> object:
    _ = CALLERS.of_message(ANYBODY, request.token, T0)
    return users.transfer_of(request, ANA, "e")


def _upload(request: pool.UploadTaskRequest) -> object:
    return tasks.upload_of(request, user=None, registered=False, call_id="c", now=T0, house_rate=0, unpacked_bytes=GIB)


def _task(request: Any) -> object:
    return tasks.workload_id_of(request.task_id)


def _task_of_caller(request: Any) -> object:
    return _task(request), CALLERS.of_message(ANYBODY, request.token, T0)


def _output(request: Any) -> object:
    return _task(request), outputs.stored_output(request)


def _ended(request: pool.TaskCompletedRequest) -> object:
    return _task(request), workers.node_id_of(request.node_id)


def _execute(request: Any) -> object:
    if isinstance(request, taskworker_pb2.ExecuteTaskRequest):
        _ = taskworker.environment_of(request)
        return _upload(taskworker.upload_request_of(request))
    return _upload(pool.UploadTaskRequest(task_id=request.task_id, task_data=request.task_data, user_id="ana"))


TRANSLATIONS: Final[dict[str, Callable[[Any], object]]] = {
    "nodepool.LoginRequest": _login,
    "nodepool.RegisterRequest": _login,
    "nodepool.TransferRequest": _transfer,
    "nodepool.GetBalanceRequest": _balance,
    "nodepool.RegisterWorkerNodeRequest": lambda request: workers.registration_of(request, owner=ANA),
    "nodepool.HealthCheckRequest": lambda request: workers.node_id_of(request.node_id),
    "nodepool.ReportStatusRequest": lambda request: workers.node_id_of(request.node_id),
    "nodepool.GetNodeListRequest": lambda request: request,
    "nodepool.UploadTaskRequest": _upload,
    "nodepool.PollTaskStatusRequest": _task,
    "nodepool.StoreOutputRequest": _output,
    "nodepool.StoreResultRequest": _task,
    "nodepool.GetTaskResultRequest": _task_of_caller,
    "nodepool.TaskCompletedRequest": _ended,
    "nodepool.StoreLogsRequest": lambda request: (_task(request), outputs.stored_logs(request, T0)),
    "nodepool.GetTaskLogsRequest": _task_of_caller,
    "nodepool.GetAllTasksRequest": lambda request: CALLERS.of_message(ANYBODY, request.token, T0),
    "nodepool.StopTaskRequest": _task_of_caller,
    "nodepool.ReturnTaskResultRequest": _task,
    "nodepool.ExecuteTaskRequest": _execute,
    "nodepool.ReportOutputRequest": _output,
    "nodepool.RunningStatusRequest": lambda request: workers.reading_of(request, WORKER, T0),
    "nodepool.StopTaskExecutionRequest": _task,
    "taskworker.ExecuteTaskRequest": _execute,
    "taskworker.GetTaskStatusRequest": _task,
    "taskworker.CancelTaskRequest": _task,
    "taskworker.GetSystemInfoRequest": lambda request: request,
}

REQUESTS: Final[dict[str, Descriptor]] = {
    method.input_type.full_name: method.input_type
    for file in (pool.DESCRIPTOR, taskworker_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}


def test_every_request_has_a_translation() -> None:
    assert TRANSLATIONS.keys() == REQUESTS.keys()


def refusal_of(request_name: str, request: Message) -> ArcrayError | None:
    try:
        TRANSLATIONS[request_name](request)
    except ArcrayError as error:
        return error
    return None


@pytest.mark.parametrize("request_name", sorted(TRANSLATIONS))
@settings(deadline=None)
@given(st.data())
def test_no_request_makes_translation_fail(request_name: str, data: st.DataObject) -> None:
    refusal = refusal_of(request_name, data.draw(messages(REQUESTS[request_name])))
    if refusal is not None:
        for subject in Subject:
            assert refusals.answer(pool.StatusResponse, refusal, subject) is not None
            assert refusals.metadata(refusal, subject)


# -- the server --------------------------------------------------------------------------------------------------------

METHODS: Final[dict[str, Descriptor]] = {
    f"/{service.full_name}/{method.name}": method.input_type
    for file in (pool.DESCRIPTOR, taskworker_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}
OURS: Final = frozenset(
    {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
)
"""What is never the sender's mistake."""


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """A channel to a server in a thread of its own, where everything that was drawn before is still there."""
    started, ports, done = threading.Event(), list[int](), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with hivemind(nodes=[SimulatedNode()]) as served:
            ports.append(served.port)
            started.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(20)
        with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as opened:
            yield opened
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()


def status_of(
    channel: grpc.Channel, method: str, body: bytes, authorization: str | None, words: Words | None = None
) -> grpc.StatusCode:
    shown = () if authorization is None else (("authorization", authorization),)
    metadata = (*shown, *(words or {}).items())
    try:
        channel.unary_unary(method, None, None)(body, metadata=metadata, timeout=30)
    except grpc.RpcError as error:
        status: grpc.StatusCode = error.code()
        return status
    return grpc.StatusCode.OK


RIGHT: Final = Tokens(b"k" * 32).issue(ANA, SystemClock().now())
_SHOWN: Final = (
    st.none()
    | st.sampled_from(["Bearer x", "Bearer", "", "Basic YTpi", "Bearer a.b.c", "~"])
    | st.just(f"Bearer {RIGHT}")
)
_PRINTABLE: Final = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100)
_WORDS: Final = st.dictionaries(
    st.sampled_from(["arcray-gpus", "arcray-allocation", "arcray-other"]),
    _PRINTABLE | st.sampled_from(["[]", "{}", '[["a", 1]]', '[["a", -1]]', "[[[[", "null", "1e999"]),
)


@pytest.mark.parametrize("method", sorted(METHODS))
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_request_makes_the_server_fail(channel: grpc.Channel, method: str, data: st.DataObject) -> None:
    """Registering and logging in hash a password each time, which takes most of the second."""
    body = data.draw(messages(METHODS[method])).SerializeToString()
    assert status_of(channel, method, body, data.draw(_SHOWN), data.draw(_WORDS)) not in OURS


@pytest.mark.parametrize("method", sorted(METHODS))
@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=100))
def test_no_bytes_make_the_server_fail(channel: grpc.Channel, method: str, body: bytes) -> None:
    assert status_of(channel, method, body, None) not in OURS
