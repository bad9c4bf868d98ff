"""ArcNet bytes to messages and back: names, order and forms of members. No meaning, no units, no I/O.

Source: ArcNet API Reference, the examples under "Message Types", "Client-to-Server Messages" and "REST API".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, assert_never

from arcray.core.errors import InvalidArgumentError
from arcray.core.workload import Priority
from arcray.facades.arcnet.messages import (
    PRIORITIES,
    ClientFrame,
    InferenceAnswer,
    InferenceRequest,
    InferenceUpdate,
    NodeDetail,
    NodeTelemetry,
    Ping,
    Pong,
    ServerFrame,
    Subscribe,
    SystemNotice,
    TelemetryUpdate,
)
from arcray.wire.fields import Fields
from arcray.wire.strict_json import Members, dumps, members, quote

__all__ = [
    "answer_members",
    "decode_client_frame",
    "decode_inference",
    "encode_answer",
    "encode_frame",
    "inference_of",
    "node_members",
    "node_page",
    "timestamp",
]

MODEL_ID_LIMIT: Final = 128
GEOZONE_LIMIT: Final = 32
_REQUEST_ID_LIMIT: Final = 128
_GEOZONES_LIMIT: Final = 1024
_POSITION: Final = ((-180.0, 180.0), (-90.0, 90.0))


def timestamp(at: datetime) -> str:
    """Returns a UTC time as ArcNet writes it: ISO 8601, whole seconds, ``Z``."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def decode_client_frame(text: str) -> ClientFrame:
    """Reads a frame of a console.

    Raises:
        InvalidArgumentError: it is malformed or of an unknown type; names the field.
    """
    values = members(text, field="frame").values
    fields = Fields(values)
    match fields.text("type"):
        case "ping":
            return Ping()
        case "subscribe" if values.get("geozones") is None:
            raise InvalidArgumentError("is required", field="geozones")
        case "subscribe":
            return Subscribe(geozones=frozenset(fields.texts("geozones", most=_GEOZONES_LIMIT)))
        case _:
            raise InvalidArgumentError("is not a type that this protocol has", field="type")


def decode_inference(body: bytes) -> InferenceRequest:
    """Reads the body of ``POST /api/v1/inference``.

    Raises:
        InvalidArgumentError: names the field.
    """
    return inference_of(members(body))


def inference_of(document: Members) -> InferenceRequest:
    """Reads the members of such a body.

    Raises:
        InvalidArgumentError: names the field.
    """
    values = document.values
    fields = Fields(values)
    source = fields.numbers("source", _POSITION)
    return InferenceRequest(
        model_id=fields.text("modelId", shortest=1, longest=MODEL_ID_LIMIT),
        context_window_tokens=fields.integer("contextWindowTokens", 1, low=1),
        priority=fields.choice("priority", PRIORITIES, Priority.NORMAL),
        max_latency_ms=fields.integer("maxLatencyMs", 500, low=1),
        requester_geozone=fields.text("requesterGeozone", "", longest=GEOZONE_LIMIT),
        source=None if source is None else (source[0], source[1]),
        input=None if values.get("input") is None else document.raw("input"),
        request_id=fields.text("requestId", "", shortest=1, longest=_REQUEST_ID_LIMIT),
    )


def encode_frame(frame: ServerFrame) -> str:
    """Returns a frame for a console."""
    return dumps(_frame_members(frame)).decode()


def _frame_members(frame: ServerFrame) -> dict[str, Any]:
    match frame:
        case TelemetryUpdate():
            return {"type": "telemetry", "node": _telemetry_members(frame.node)}
        case InferenceUpdate():
            found: dict[str, Any] = {
                "type": "inference",
                "requestId": frame.request_id,
                "source": frame.source,
                "targetNodeId": frame.target_node_id,
                "modelId": frame.model_id,
                "priority": frame.priority.name.lower(),
                "status": frame.status,
            }
            if frame.latency_ms is not None:
                found["latencyMs"] = frame.latency_ms
            return found | {"timestamp": timestamp(frame.timestamp)}
        case SystemNotice():
            found = {"type": "system", "severity": frame.severity, "message": frame.message}
            if frame.details is not None:
                found["details"] = dict(frame.details)
            if frame.node_id is not None:
                found["nodeId"] = frame.node_id
            return found | {"timestamp": timestamp(frame.timestamp)}
        case Pong():
            return {"type": "pong", "timestamp": timestamp(frame.timestamp)}
        case _:
            assert_never(frame)


def _telemetry_members(node: NodeTelemetry) -> dict[str, Any]:
    return {
        "id": node.id,
        "geohash": node.geohash,
        "energySource": node.energy_source,
        "batteryLevel": node.battery_level,
        "gpuUtilization": node.gpu_utilization,
        "gpuMemoryFreeGb": node.gpu_memory_free_gb,
        "modelsLoaded": node.models_loaded,
        "timestamp": timestamp(node.timestamp),
    }


def node_members(node: NodeDetail) -> dict[str, Any]:
    """Returns a node as REST shows it."""
    return _telemetry_members(node.telemetry) | {
        "name": node.name,
        "status": node.status,
        "geozone": node.geozone,
        "position": node.position,
        "gpuCount": node.gpu_count,
        "gpuMemoryTotalGb": node.gpu_memory_total_gb,
        "lastSeen": timestamp(node.last_seen),
        "driver": node.driver,
        "externalId": node.external_id,
    }


def node_page(nodes: Sequence[NodeDetail], *, total: int, limit: int, offset: int) -> dict[str, Any]:
    """Returns the body of ``GET /api/v1/nodes``."""
    return {"nodes": [node_members(node) for node in nodes], "total": total, "limit": limit, "offset": offset}


def answer_members(answer: InferenceAnswer) -> dict[str, Any]:
    """Returns the members of an answer but for the model's output."""
    found: dict[str, Any] = {
        "requestId": answer.request_id,
        "status": answer.status,
        "targetNodeId": answer.target_node_id,
        "modelId": answer.model_id,
    }
    if answer.latency_ms is not None:
        found["latencyMs"] = answer.latency_ms
    if answer.pid is not None:
        found["servedBy"] = {"pid": answer.pid}
    return found


def encode_answer(answer: InferenceAnswer) -> bytes:
    """Returns the body of an answer; the model's output goes in as it was written.

    Put together by hand: it is written thousands of times a second, and a general encoder takes four times as long.
    """
    request_id, target, model_id = map(quote, (answer.request_id, answer.target_node_id, answer.model_id))
    text = f'{{"requestId":{request_id},"status":"{answer.status.value}","targetNodeId":{target},"modelId":{model_id}'
    if answer.latency_ms is not None:
        text += f',"latencyMs":{answer.latency_ms}'
    if answer.pid is not None:
        text += f',"servedBy":{{"pid":{answer.pid}}}'
    if answer.output is None:
        return (text + "}").encode()
    return b'%b,"output":%b}' % (text.encode(), answer.output)
