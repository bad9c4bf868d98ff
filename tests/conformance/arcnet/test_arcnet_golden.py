"""Golden frames: the examples of the ArcNet API Reference, member by member, in order."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from arcray.core.node import EnergySource
from arcray.core.workload import Priority
from arcray.facades.arcnet.codec import decode_client_frame, decode_inference, encode_answer, encode_frame
from arcray.facades.arcnet.messages import (
    InferenceAnswer,
    InferenceRequest,
    InferenceStatus,
    InferenceUpdate,
    NodeTelemetry,
    Ping,
    Pong,
    ServerFrame,
    Severity,
    Subscribe,
    SystemNotice,
    TelemetryUpdate,
)

NODE = "550e8400-e29b-41d4-a716-446655440000"


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2025-12-28T{clock}+00:00")


TELEMETRY = """{
  "type": "telemetry",
  "node": {
    "id": "550e8400-e29b-41d4-a716-446655440000",
    "geohash": "9q9hvu",
    "energySource": "cogen",
    "batteryLevel": 0.87,
    "gpuUtilization": 0.42,
    "gpuMemoryFreeGb": 32.5,
    "modelsLoaded": ["llama-3-70b", "stable-diffusion-xl"],
    "timestamp": "2025-12-28T18:45:00Z"
  }
}"""

INFERENCE = """{
  "type": "inference",
  "requestId": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
  "source": [-122.4194, 37.7749],
  "targetNodeId": "550e8400-e29b-41d4-a716-446655440000",
  "modelId": "llama-3-70b",
  "priority": "normal",
  "status": "completed",
  "latencyMs": 245,
  "timestamp": "2025-12-28T18:45:15Z"
}"""

SYSTEM = """{
  "type": "system",
  "severity": "warn",
  "message": "Low battery detected on node CAISO-SanJose-042",
  "details": {
    "batteryLevel": 0.15,
    "energySource": "battery"
  },
  "nodeId": "550e8400-e29b-41d4-a716-446655440000",
  "timestamp": "2025-12-28T18:46:00Z"
}"""

PONG = """{
  "type": "pong",
  "timestamp": "2025-12-28T18:47:00Z"
}"""

FRAMES: list[tuple[str, ServerFrame]] = [
    (
        TELEMETRY,
        TelemetryUpdate(
            node=NodeTelemetry(
                id=NODE,
                geohash="9q9hvu",
                energy_source=EnergySource.COGEN,
                battery_level=0.87,
                gpu_utilization=0.42,
                gpu_memory_free_gb=32.5,
                models_loaded=("llama-3-70b", "stable-diffusion-xl"),
                timestamp=at("18:45:00"),
            )
        ),
    ),
    (
        INFERENCE,
        InferenceUpdate(
            request_id="7c9e6679-7425-40de-944b-e07fc1f90ae7",
            source=(-122.4194, 37.7749),
            target_node_id=NODE,
            model_id="llama-3-70b",
            priority=Priority.NORMAL,
            status=InferenceStatus.COMPLETED,
            latency_ms=245,
            timestamp=at("18:45:15"),
        ),
    ),
    (
        SYSTEM,
        SystemNotice(
            severity=Severity.WARN,
            message="Low battery detected on node CAISO-SanJose-042",
            details={"batteryLevel": 0.15, "energySource": "battery"},
            node_id=NODE,
            timestamp=at("18:46:00"),
        ),
    ),
    (PONG, Pong(timestamp=at("18:47:00"))),
]


@pytest.mark.parametrize(("golden", "message"), FRAMES, ids=lambda value: type(value).__name__)
def test_frame_equals_the_documents_example(golden: str, message: ServerFrame) -> None:
    # Compared as compact text, so that the order of members, the forms of numbers and of times count.
    assert encode_frame(message) == json.dumps(json.loads(golden), separators=(",", ":"))


def test_latency_is_only_there_when_completed() -> None:
    _, completed = FRAMES[1]
    assert isinstance(completed, InferenceUpdate)
    failed = InferenceUpdate(
        request_id=completed.request_id,
        source=completed.source,
        target_node_id=completed.target_node_id,
        model_id=completed.model_id,
        priority=Priority.CRITICAL,
        status=InferenceStatus.FAILED,
        latency_ms=None,
        timestamp=completed.timestamp,
    )
    expected = json.loads(INFERENCE) | {"priority": "critical", "status": "failed"}
    del expected["latencyMs"]
    assert json.loads(encode_frame(failed)) == expected


def test_optional_members_of_a_notice_are_left_out() -> None:
    notice = SystemNotice(severity=Severity.INFO, message="hello", details=None, node_id=None, timestamp=at("18:46:00"))
    assert json.loads(encode_frame(notice)) == {
        "type": "system",
        "severity": "info",
        "message": "hello",
        "timestamp": "2025-12-28T18:46:00Z",
    }


def test_times_are_whole_seconds_however_precise_they_came() -> None:
    precise = at("18:47:00") + timedelta(microseconds=999_999)
    assert encode_frame(Pong(timestamp=precise)) == encode_frame(Pong(timestamp=at("18:47:00")))
    assert precise.tzinfo is UTC


def test_client_frames_of_the_document_are_read() -> None:
    subscribe = '{"type": "subscribe", "geozones": ["CAISO", "ERCOT"]}'
    assert decode_client_frame(subscribe) == Subscribe(geozones=frozenset({"CAISO", "ERCOT"}))
    assert decode_client_frame('{"type": "ping"}') == Ping()


def test_inference_body_takes_its_defaults() -> None:
    assert decode_inference(b'{"modelId":"llama-3-70b"}') == InferenceRequest(
        model_id="llama-3-70b",
        context_window_tokens=1,
        priority=Priority.NORMAL,
        max_latency_ms=500,
        requester_geozone="",
        source=None,
        input=None,
        request_id="",
    )


def test_inference_body_is_read_member_by_member() -> None:
    body = (
        b'{"modelId":"m","contextWindowTokens":4096,"priority":"critical","maxLatencyMs":100,"requesterGeozone":"CAISO",'
        b'"source":[-122.4194,37.7749],"input": {"x": [1.0, 2]} ,"requestId":"r-1","future":true}'
    )
    assert decode_inference(body) == InferenceRequest(
        model_id="m",
        context_window_tokens=4096,
        priority=Priority.CRITICAL,
        max_latency_ms=100,
        requester_geozone="CAISO",
        source=(-122.4194, 37.7749),
        input=b'{"x": [1.0, 2]}',
        request_id="r-1",
    )


def test_answer_carries_the_models_output_as_it_was_written() -> None:
    answer = InferenceAnswer(
        request_id="r-1",
        status=InferenceStatus.COMPLETED,
        target_node_id=NODE,
        model_id="m",
        latency_ms=12,
        output=b'{"digit": 7.0}',
        pid=4711,
    )
    assert encode_answer(answer) == (
        b'{"requestId":"r-1","status":"completed","targetNodeId":"550e8400-e29b-41d4-a716-446655440000","modelId":"m",'
        b'"latencyMs":12,"servedBy":{"pid":4711},"output":{"digit": 7.0}}'
    )
