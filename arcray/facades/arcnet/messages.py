"""ArcNet's words: what its frames and bodies say, as values. Names and units are the wire's.

Source: ArcNet API Reference, "Message Types", "Client-to-Server Messages", "REST API".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from arcray.core.node import EnergySource
from arcray.core.workload import Priority

__all__ = [
    "PRIORITIES",
    "ClientFrame",
    "InferenceAnswer",
    "InferenceRequest",
    "InferenceStatus",
    "InferenceUpdate",
    "NodeDetail",
    "NodeStatus",
    "NodeTelemetry",
    "Ping",
    "Pong",
    "ServerFrame",
    "Severity",
    "Subscribe",
    "SystemNotice",
    "TelemetryUpdate",
]


class NodeStatus(StrEnum):
    """How a node does, for people."""

    ONLINE = "online"  # load above 0.3
    BUSY = "busy"  # load above 0.8
    IDLE = "idle"  # load up to 0.3
    STALE = "stale"  # silent for more than 30 s
    OFFLINE = "offline"  # silent for more than 300 s, lost, gone, or out of battery


class InferenceStatus(StrEnum):
    """How far a request is."""

    PENDING = "pending"  # accepted, no node yet; only in answers to respond-async, never in events
    DISPATCHED = "dispatched"  # a node was chosen
    PROCESSING = "processing"  # the node started
    COMPLETED = "completed"
    FAILED = "failed"  # the model or its node failed
    REJECTED = "rejected"  # no node could take it


class Severity(StrEnum):
    """Weight of a system notice."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    SUCCESS = "success"


PRIORITIES: Mapping[str, Priority] = {priority.name.lower(): priority for priority in Priority}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTelemetry:
    """One reading of a node.

    Args:
        battery_level, gpu_utilization: 0.0 to 1.0.
        gpu_memory_free_gb: over all GPUs, in 2^30 bytes.
        models_loaded: names, sorted.
    """

    id: str
    geohash: str
    energy_source: EnergySource
    battery_level: float
    gpu_utilization: float
    gpu_memory_free_gb: float
    models_loaded: tuple[str, ...]
    timestamp: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetail:
    """A node as REST shows it.

    Args:
        position: longitude, latitude.
        external_id: its id on the protocol that it joined by.
    """

    telemetry: NodeTelemetry
    name: str
    status: NodeStatus
    geozone: str
    position: tuple[float, float]
    gpu_count: int
    gpu_memory_total_gb: float
    last_seen: datetime
    driver: str
    external_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryUpdate:
    """Frame ``telemetry``."""

    node: NodeTelemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceUpdate:
    """Frame ``inference``.

    Args:
        source: longitude, latitude of the requester.
        target_node_id: "" when rejected.
        latency_ms: only when completed.
    """

    request_id: str
    source: tuple[float, float]
    target_node_id: str
    model_id: str
    priority: Priority
    status: InferenceStatus
    latency_ms: int | None
    timestamp: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemNotice:
    """Frame ``system``."""

    severity: Severity
    message: str
    details: Mapping[str, Any] | None
    node_id: str | None
    timestamp: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Frame ``pong``."""

    timestamp: datetime


ServerFrame: TypeAlias = TelemetryUpdate | InferenceUpdate | SystemNotice | Pong


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Client frame ``subscribe``: telemetry of these zones only; all zones when empty."""

    geozones: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Client frame ``ping``."""


ClientFrame: TypeAlias = Subscribe | Ping


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """Body of ``POST /api/v1/inference``.

    Args:
        source: longitude, latitude of the requester.
        input: its JSON as it was written; None when absent or null.
        request_id: "" when the client named none.
    """

    model_id: str
    context_window_tokens: int
    priority: Priority
    max_latency_ms: int
    requester_geozone: str
    source: tuple[float, float] | None
    input: bytes | None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceAnswer:
    """What became of a request.

    Args:
        target_node_id: "" before a node was chosen.
        latency_ms: from acceptance to the end; None while there is none.
        output: the model's JSON as it was written.
        pid: process that answered on its node.
        reason: why it failed or was rejected, for people.
    """

    request_id: str
    status: InferenceStatus
    target_node_id: str
    model_id: str
    latency_ms: int | None
    output: bytes | None = None
    pid: int | None = None
    reason: str = ""
