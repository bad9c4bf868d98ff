"""The document's messages, in its order: what nodes say, and what the gateway says.

Source: claw-proto API Reference, "Node Messages" and "Gateway Messages".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from arcray.claw_proto.ids import NodeId, WorkloadId
from arcray.claw_proto.shapes import U32
from arcray.claw_proto.timestamp import Timestamp
from arcray.claw_proto.types import GpuMetricsProto, NodeCapabilities, NodeConfig, Workload, WorkloadState

__all__ = [
    "DeployWorkload",
    "GatewayMessage",
    "GetWorkloadStatus",
    "Heartbeat",
    "HeartbeatAck",
    "Metrics",
    "NodeMessage",
    "Ping",
    "Register",
    "Registered",
    "Shutdown",
    "StopWorkload",
    "UpdateConfig",
    "WorkloadLogs",
    "WorkloadUpdate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """The first message of a connection: who the node is, and what it has."""

    node_id: NodeId
    name: str
    capabilities: NodeCapabilities
    protocol_version: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The node is there. Also the answer to ``Ping``."""

    node_id: NodeId
    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A reading of every GPU."""

    node_id: NodeId
    gpu_metrics: tuple[GpuMetricsProto, ...]
    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadUpdate:
    """A workload went to another state. Also the answer to ``GetWorkloadStatus``."""

    workload_id: WorkloadId
    state: WorkloadState
    message: str | None = None
    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLogs:
    """What a workload wrote: at most 10,000 lines."""

    workload_id: WorkloadId
    lines: tuple[str, ...]
    is_stderr: bool


NodeMessage: TypeAlias = Register | Heartbeat | Metrics | WorkloadUpdate | WorkloadLogs


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The node is part of the pool, and says of itself this often."""

    heartbeat_interval_secs: U32
    metrics_interval_secs: U32
    config: NodeConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAck:
    """The heartbeat was heard."""

    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployWorkload:
    """Run this."""

    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkload:
    """End this; at once where ``force`` is set."""

    workload_id: WorkloadId
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GetWorkloadStatus:
    """Say how far this is."""

    workload_id: WorkloadId


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """Go by this from now on."""

    config: NodeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Answer at once, so that it is known how long that takes."""

    timestamp: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Leave; after what runs has ended where ``graceful`` is set."""

    reason: str
    graceful: bool


GatewayMessage: TypeAlias = (
    Registered | HeartbeatAck | DeployWorkload | StopWorkload | GetWorkloadStatus | UpdateConfig | Ping | Shutdown
)
