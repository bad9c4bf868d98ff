"""The messages of the protocol's first implementation, whose nodes are about and do not speak the document's.

They differ in names, in what a node tells of itself, and in what it can be asked. They exist as JSON only. Its mesh,
scheduling gates and conditions are no part of this: a message of that kind is unknown, such a field is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, TypeAlias

from arcray.claw_proto.ids import NodeId, WorkloadId
from arcray.claw_proto.messages import Heartbeat, WorkloadLogs
from arcray.claw_proto.shapes import F32, U8, U32, U64, Absence, StringMap
from arcray.claw_proto.timestamp import Timestamp
from arcray.claw_proto.types import NodeConfig

__all__ = [
    "ConfigUpdate",
    "Error",
    "ErrorCode",
    "GatewayMessage",
    "GpuCapability",
    "GpuMetricsProto",
    "HeartbeatAck",
    "Metrics",
    "NodeCapabilities",
    "NodeMessage",
    "Register",
    "Registered",
    "RequestCapabilities",
    "RequestMetrics",
    "StartWorkload",
    "StopWorkload",
    "WorkloadSpec",
    "WorkloadState",
    "WorkloadUpdate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCapability:
    """One GPU of a node."""

    index: U32
    name: str
    memory_mib: U64
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapabilities:
    """What a node has."""

    gpus: tuple[GpuCapability, ...] = ()
    memory_mib: U64 = 0
    cpu_cores: U32 = 0
    runtimes: tuple[str, ...] = ()
    labels: Annotated[StringMap, Absence.LEFT_OUT] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMetricsProto:
    """One reading of a GPU."""

    index: U32
    utilization_percent: U8
    memory_used_mib: U64
    memory_total_mib: U64
    temperature_celsius: U32
    power_watts: F32 | None = None


class WorkloadState(StrEnum):
    """Where a workload stands; the images of these nodes are there already."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What to run. ``validate_original_spec`` says whether it keeps the rules."""

    image: str
    command: tuple[str, ...] = ()
    env: StringMap = ()
    gpu_count: U32 = 0
    memory_mb: U64 = 512
    cpu_cores: U32 = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """The first message of a connection: who the node is, and what it has."""

    node_id: NodeId
    name: str
    capabilities: NodeCapabilities
    protocol_version: U32
    wireguard_public_key: str | None = None
    wireguard_endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A reading of every GPU."""

    node_id: NodeId
    gpu_metrics: tuple[GpuMetricsProto, ...]
    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadUpdate:
    """A workload went to another state."""

    workload_id: WorkloadId
    state: WorkloadState
    message: str | None = None
    timestamp: Timestamp


NodeMessage: TypeAlias = Register | Heartbeat | Metrics | WorkloadUpdate | WorkloadLogs


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The node is part of the pool, and says of itself this often."""

    node_id: NodeId
    heartbeat_interval_secs: U32
    metrics_interval_secs: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAck:
    """The heartbeat was heard."""

    server_time: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorkload:
    """Run this."""

    workload_id: WorkloadId
    spec: WorkloadSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkload:
    """End this: politely, then after the grace period for certain."""

    workload_id: WorkloadId
    grace_period_secs: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigUpdate:
    """Go by this from now on."""

    config: NodeConfig


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Send a reading now."""


@dataclass(frozen=True, slots=True)
class RequestCapabilities:
    """Say what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Something that the node said was refused; ``code`` is an ``ErrorCode``."""

    code: U32
    message: str


GatewayMessage: TypeAlias = (
    Registered
    | HeartbeatAck
    | StartWorkload
    | StopWorkload
    | ConfigUpdate
    | RequestMetrics
    | RequestCapabilities
    | Error
)


class ErrorCode(IntEnum):
    """What ``Error`` is about."""

    NODE_NOT_FOUND = 1001
    WORKLOAD_NOT_FOUND = 1002
    INVALID_REQUEST = 1003
    NO_CAPACITY = 1004
    PERMISSION_DENIED = 1005
    INTERNAL = 1006
    PROTOCOL_MISMATCH = 1008
