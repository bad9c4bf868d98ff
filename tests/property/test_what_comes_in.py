"""Anything that comes in is understood, or refused by an error of ours that names what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.facades.arcnet.codec import answer_members, decode_client_frame, decode_inference, encode_answer
from arcray.facades.arcnet.messages import InferenceAnswer, InferenceStatus, Ping, Subscribe
from arcray.facades.arcnet.session import Close, TelemetrySession
from arcray.facades.rest.codec import decode_model, decode_stop, decode_submission
from arcray.facades.rest.messages import ContainerBody, ModelBody, ProgramBody, StopBody
from arcray.node.archive import unpack
from arcray.testing.builders import T0
from arcray.wire.large_json import Turns
from arcray.wire.strict_json import dumps, members, parse

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def json_values(numbers: st.SearchStrategy[float], text: st.SearchStrategy[str], leaves: int) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=leaves,
    )


REAL_JSON: Final = json_values(st.floats(allow_nan=False, allow_infinity=False), st.text(), 12)
JSON: Final = json_values(st.floats(), st.text(max_size=8), 8)  # with NaN, as careless senders write it


def outcome(decode: Callable[[_In], _Out], data: _In) -> _Out | InvalidArgumentError:
    try:
        return decode(data)
    except InvalidArgumentError as refusal:
        return refusal


# -- JSON ------------------------------------------------------------------------------------------------------------


@given(REAL_JSON)
def test_every_document_is_read_as_the_standard_parser_reads_it(value: Any) -> None:
    assert parse(json.dumps(value)) == value
    assert parse(dumps_or_skip(value)) == value


def dumps_or_skip(value: Any) -> bytes:
    try:
        return dumps(value)
    except UnicodeEncodeError:  # half a surrogate pair, which only the escaped form can carry
        return json.dumps(value).encode()


@given(st.dictionaries(st.text(), REAL_JSON, max_size=6), st.sampled_from([None, 1, 3]))
def test_members_agree_with_the_document_and_keep_their_text(value: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    found = members(text)
    assert found.values == value
    for name, member in value.items():
        raw = found.raw(name)
        assert raw is not None
        assert raw.decode() in text
        assert json.loads(raw) == member
    assert found.raw("no such member") is None or "no such member" in value


@given(
    st.dictionaries(st.text(), REAL_JSON, max_size=6).map(json.dumps).map(str.encode)
    | st.text(alphabet='{}[]",:019.eE+-trufalsn \\').map('{{"a":{}'.format).map(str.encode)
)
def test_a_large_document_is_read_as_a_small_one_is(body: bytes) -> None:
    small = outcome(members, body)
    large = outcome(lambda body: asyncio.run(Turns().members(body)), body)
    if isinstance(small, InvalidArgumentError) or isinstance(large, InvalidArgumentError):
        assert (type(small), type(large)) == (InvalidArgumentError, InvalidArgumentError), body
    else:
        assert small.spans == large.spans
        # What is long and opaque is left unread.
        assert all(large.values[name] in (value, type(value)()) for name, value in small.values.items())


@given(
    st.binary() | st.text().map(str.encode) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsnN \\').map(str.encode)
)
def test_any_bytes_are_a_value_or_a_refusal_that_names_the_body(body: bytes) -> None:
    try:
        expected = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        for read in (parse, members):
            with pytest.raises(InvalidArgumentError) as refusal:
                read(body)
            assert refusal.value.field == "body"
        return
    assert parse(body) == expected
    if isinstance(expected, dict):
        assert members(body).values == expected
    else:
        with pytest.raises(InvalidArgumentError, match="must be an object"):
            members(body)


def refuse(name: str) -> Any:
    raise ValueError(name)


# -- REST ------------------------------------------------------------------------------------------------------------

DECODERS: Final[list[Callable[[bytes], BaseModel]]] = [decode_submission, decode_model, decode_stop]
MEMBERS: Final = sorted(
    {
        field.alias or name
        for body in (ProgramBody, ContainerBody, ModelBody, StopBody)
        for name, field in body.model_fields.items()
    }
)
BODIES: Final = st.dictionaries(st.sampled_from(MEMBERS), JSON)
VALID: Final[dict[str, Any]] = {"kind": "program", "image": "busybox", "name": "n", "format": "onnx"}


@given(
    st.sampled_from(DECODERS),
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | BODIES.map(lambda body: json.dumps(VALID | body).encode())
    | BODIES.map(lambda body: json.dumps(VALID | body | {"kind": "container"}).encode()),
)
def test_any_bytes_are_a_message_or_a_refusal_that_names_a_field(
    decode: Callable[[bytes], BaseModel], body: bytes
) -> None:
    found = outcome(decode, body)
    if isinstance(found, InvalidArgumentError):
        assert (found.field or "").split(".")[0] in {"body", *MEMBERS}
        assert found.message
    else:
        assert isinstance(found, BaseModel)


# -- ArcNet ----------------------------------------------------------------------------------------------------------

REQUEST_MEMBERS: Final = [
    "modelId",
    "contextWindowTokens",
    "priority",
    "maxLatencyMs",
    "requesterGeozone",
    "source",
    "input",
    "requestId",
]
REQUESTS: Final = st.dictionaries(st.sampled_from(REQUEST_MEMBERS), JSON).map(
    lambda body: json.dumps({"modelId": "m"} | body).encode()
)
FRAMES: Final = st.fixed_dictionaries(
    {"type": st.sampled_from(["ping", "subscribe", "x"]) | JSON}, optional={"geozones": JSON}
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | REQUESTS)
def test_any_body_is_a_request_or_a_refusal_that_names_a_field(body: bytes) -> None:
    found = outcome(decode_inference, body)
    if isinstance(found, InvalidArgumentError):
        assert (found.field or "").split(".")[0] in {"body", *REQUEST_MEMBERS}
    else:
        assert found.input is None or json.loads(found.input) == json.loads(body)["input"]


@given(st.text() | JSON.map(json.dumps) | FRAMES.map(json.dumps))
def test_any_frame_is_understood_or_refused_by_name(text: str) -> None:
    found = outcome(decode_client_frame, text)
    if isinstance(found, InvalidArgumentError):
        assert (found.field or "").split(".")[0] in {"frame", "type", "geozones"}
    else:
        assert isinstance(found, (Ping, Subscribe))


@given(st.text() | st.binary())
def test_nothing_that_is_small_ends_a_session(data: str | bytes) -> None:
    assert not isinstance(TelemetrySession().receive(data, T0), Close)


@given(st.text(), st.text(), st.none() | st.integers(0, 10**6), st.none() | st.integers(0, 10**6), st.none() | JSON)
def test_answer_is_json_whatever_its_strings_hold(
    request_id: str, model_id: str, latency_ms: int | None, pid: int | None, output: Any
) -> None:
    answer = InferenceAnswer(
        request_id=request_id,
        status=InferenceStatus.COMPLETED,
        target_node_id="n",
        model_id=model_id,
        latency_ms=latency_ms,
        output=None if output is None else json.dumps(output).encode(),
        pid=pid,
    )
    expected = answer_members(answer) | ({} if output is None else {"output": json.loads(json.dumps(output))})
    assert repr(json.loads(encode_answer(answer))) == repr(json.loads(json.dumps(expected)))


# -- archives --------------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=300), cut=st.integers(0, 400), flip=st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_damaged_archive_is_our_error_and_never_another(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int, flip: int
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("main.py", data)
    damaged = bytearray(buffer.getvalue()[: max(0, len(buffer.getvalue()) - cut % 40)])
    if damaged:
        damaged[flip % len(damaged)] ^= 0x55
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "target").mkdir()
    (folder / "a.zip").write_bytes(damaged)
    with contextlib.suppress(ArcrayError):
        unpack(folder / "a.zip", folder / "target", max_bytes=1000)
