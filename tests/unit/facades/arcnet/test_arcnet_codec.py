"""Anything that comes in is a message or an InvalidArgumentError that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.core.errors import InvalidArgumentError
from arcray.facades.arcnet.codec import answer_members, decode_client_frame, decode_inference, encode_answer
from arcray.facades.arcnet.messages import InferenceAnswer, InferenceStatus, Ping, Subscribe

_In = TypeVar("_In")
_Out = TypeVar("_Out")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = [
    "modelId",
    "contextWindowTokens",
    "priority",
    "maxLatencyMs",
    "requesterGeozone",
    "source",
    "input",
    "requestId",
]
BODIES = st.dictionaries(st.sampled_from(MEMBERS), JSON).map(lambda body: json.dumps({"modelId": "m"} | body).encode())
FRAMES = st.fixed_dictionaries(
    {"type": st.sampled_from(["ping", "subscribe", "x"]) | JSON}, optional={"geozones": JSON}
)


def outcome(decode: Callable[[_In], _Out], data: _In) -> _Out | InvalidArgumentError:
    try:
        return decode(data)
    except InvalidArgumentError as refusal:
        return refusal


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | BODIES)
def test_any_body_is_a_request_or_a_refusal_that_names_a_field(body: bytes) -> None:
    found = outcome(decode_inference, body)
    if isinstance(found, InvalidArgumentError):
        assert (found.field or "").split(".")[0] in {"body", *MEMBERS}
    else:
        assert found.input is None or json.loads(found.input) == json.loads(body)["input"]


@given(st.text() | JSON.map(json.dumps) | FRAMES.map(json.dumps))
def test_any_frame_is_understood_or_refused_by_name(text: str) -> None:
    found = outcome(decode_client_frame, text)
    if isinstance(found, InvalidArgumentError):
        assert (found.field or "").split(".")[0] in {"frame", "type", "geozones"}
    else:
        assert isinstance(found, (Ping, Subscribe))


@pytest.mark.parametrize(
    ("member", "value", "field"),
    [
        ("modelId", None, "modelId"),
        ("modelId", "", "modelId"),
        ("modelId", "m" * 129, "modelId"),
        ("modelId", 7, "modelId"),
        ("contextWindowTokens", 0, "contextWindowTokens"),
        ("contextWindowTokens", 1.5, "contextWindowTokens"),
        ("contextWindowTokens", True, "contextWindowTokens"),
        ("priority", "urgent", "priority"),
        ("priority", 1, "priority"),
        ("maxLatencyMs", 0, "maxLatencyMs"),
        ("requesterGeozone", "z" * 33, "requesterGeozone"),
        ("source", [1], "source"),
        ("source", [200.0, 0.0], "source.0"),
        ("source", [0.0, -91], "source.1"),
        ("source", "here", "source"),
        ("requestId", "", "requestId"),
        ("requestId", "r" * 129, "requestId"),
        ("requestId", "\ud800", "requestId"),
    ],
)
def test_wrong_member_is_named(member: str, value: Any, field: str) -> None:
    body = json.dumps({"modelId": "m", member: value}).encode()
    with pytest.raises(InvalidArgumentError) as refusal:
        decode_inference(body)
    assert refusal.value.field == field


def test_null_input_is_no_input() -> None:
    assert decode_inference(b'{"modelId":"m","input":null}').input is None
    assert decode_inference(b'{"modelId":"m","input":0}').input == b"0"


def test_subscription_without_zones_is_malformed_not_a_cleared_filter() -> None:
    for text in ('{"type":"subscribe"}', '{"type":"subscribe","geozones":null}', '{"type":"subscribe","geozones":"A"}'):
        with pytest.raises(InvalidArgumentError) as refusal:
            decode_client_frame(text)
        assert refusal.value.field == "geozones"
    assert decode_client_frame('{"type":"subscribe","geozones":[]}') == Subscribe(geozones=frozenset())


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
