"""Schemas and examples of ArcNet's bodies, for the API documentation. The codec holds; tests compare the two."""

from __future__ import annotations

from typing import Any, Final

from arcray.facades.arcnet.messages import PRIORITIES, InferenceStatus, NodeStatus

__all__ = ["ANSWER", "NODE", "NODES", "REQUEST", "REQUEST_EXAMPLE", "STATS"]


def _object(required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number"}
_TIME: Final = {"type": "string", "format": "date-time"}
_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1}
_POSITION: Final = {
    "type": "array",
    "description": "longitude, latitude in degrees",
    "items": _NUMBER,
    "minItems": 2,
    "maxItems": 2,
}
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}

REQUEST: Final = _object(
    "modelId",
    modelId={"type": "string", "minLength": 1, "maxLength": 128},
    contextWindowTokens={"type": "integer", "minimum": 1, "default": 1},
    priority={"type": "string", "enum": list(PRIORITIES), "default": "normal"},
    maxLatencyMs={
        "type": "integer",
        "minimum": 1,
        "default": 500,
        "description": "a wish, kept with the request: a later answer is still an answer, and latencyMs tells how late",
    },
    requesterGeozone={"type": "string", "maxLength": 32},
    source=_POSITION,
    input={"description": "any JSON; its form is the model's own"},
    requestId={"type": "string", "minLength": 1, "maxLength": 128, "description": "makes the request idempotent"},
)

REQUEST_EXAMPLE: Final = {"modelId": "digits", "input": [[0.0, 5.0, 13.0, 9.0]], "priority": "normal"}

ANSWER: Final = _object(
    "requestId status targetNodeId modelId",
    requestId=_TEXT,
    status={"type": "string", "enum": [status.value for status in InferenceStatus]},
    targetNodeId=_TEXT,
    modelId=_TEXT,
    latencyMs={"type": "integer", "minimum": 0, "description": "only when completed"},
    output={"description": "any JSON; its form is the model's own"},
    servedBy=_object("pid", pid={"type": "integer"}),
)

NODE: Final = _object(
    "id geohash energySource batteryLevel gpuUtilization gpuMemoryFreeGb modelsLoaded timestamp name status geozone "
    "position gpuCount gpuMemoryTotalGb lastSeen driver externalId",
    id={"type": "string", "format": "uuid"},
    geohash=_TEXT,
    energySource={"type": "string", "enum": ["cogen", "grid", "battery"]},
    batteryLevel=_SHARE,
    gpuUtilization=_SHARE,
    gpuMemoryFreeGb=_NUMBER,
    modelsLoaded={"type": "array", "items": _TEXT},
    timestamp=_TIME,
    name=_TEXT,
    status={"type": "string", "enum": [status.value for status in NodeStatus]},
    geozone=_TEXT,
    position=_POSITION,
    gpuCount=_COUNT,
    gpuMemoryTotalGb=_NUMBER,
    lastSeen=_TIME,
    driver=_TEXT,
    externalId=_TEXT,
)

NODES: Final = _object(
    "nodes total limit offset",
    nodes={"type": "array", "items": NODE},
    total=_COUNT,
    limit=_COUNT,
    offset=_COUNT,
)

_QUANTILE: Final = {"type": ["number", "null"]}

STATS: Final = _object(
    "nodes gpus inference energy geozones uptimeS",
    nodes=_object("total online busy idle stale offline", **dict.fromkeys(["total", *NodeStatus], _COUNT)),
    gpus=_object(
        "total memoryTotalGb memoryFreeGb utilization",
        total=_COUNT,
        memoryTotalGb=_NUMBER,
        memoryFreeGb=_NUMBER,
        utilization=_SHARE,
    ),
    inference=_object(
        "dispatched completed failed rejected inFlight latencyMs",
        dispatched=_COUNT,
        completed=_COUNT,
        failed=_COUNT,
        rejected=_COUNT,
        inFlight=_COUNT,
        latencyMs=_object("p50 p99", p50=_QUANTILE, p99=_QUANTILE),
    ),
    energy=_COUNTS,
    geozones=_COUNTS,
    uptimeS=_NUMBER,
)
