"""Anything that comes in is a message or an InvalidArgumentError that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.facades.arcnet.codec import decode_client_frame, decode_inference
from arcray.facades.arcnet.messages import Subscribe


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
