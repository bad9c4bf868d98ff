"""The document's types, field by field in its order: nodes, workloads, configuration.

Where the document names a type and does not define it (``WorkloadStatus``, ``VolumeMount``, ``RestartPolicy``), it is
that of the protocol's first implementation. MB are 2^20 bytes. Defaults are for who makes a value; what is read has to
have every field, but for options and where a field says otherwise.

Source: claw-proto API Reference, "Types", "Workload Specification" and "Configuration".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, TypeAlias

from arcray.claw_proto.ids import WorkloadId
from arcray.claw_proto.shapes import I32, U16, U32, U64, Absence
from arcray.claw_proto.timestamp import EPOCH, Timestamp

__all__ = [
    "Always",
    "GpuCapability",
    "GpuMetricsProto",
    "MountType",
    "No",
    "NodeCapabilities",
    "NodeConfig",
    "OnFailure",
    "RestartPolicy",
    "UnlessStopped",
    "VolumeMount",
    "Workload",
    "WorkloadSpec",
    "WorkloadState",
    "WorkloadStatus",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCapability:
    """One GPU of a node."""

    index: U32
    name: str
    vram_mb: U64
    compute_capability: str
    driver_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapabilities:
    """What a node has.

    Args:
        total_vram_mb: as the node says it; the document's own example is not the sum of its GPUs.
        supported_runtimes: of containers, for example ``docker``.
    """

    total_vram_mb: U64 = 0
    gpu_count: U32 = 0
    gpus: tuple[GpuCapability, ...] = ()
    max_concurrent_workloads: U32 = 0
    supported_runtimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMetricsProto:
    """One reading of a GPU."""

    index: U32
    utilization_percent: U32
    memory_used_mb: U64
    memory_total_mb: U64
    temperature_celsius: U32
    power_watts: U32


class WorkloadState(StrEnum):
    """Where a workload stands. ``lifecycle`` says what leads to what."""

    PENDING = "pending"  # its node has not begun
    PULLING = "pulling"  # its image is fetched
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"  # asked to end
    STOPPED = "stopped"  # ended because it was asked to
    FAILED = "failed"
    COMPLETED = "completed"  # ended by itself, well

    @property
    def is_terminal(self) -> bool:
        """Whether nothing follows it."""
        return self in (WorkloadState.STOPPED, WorkloadState.FAILED, WorkloadState.COMPLETED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStatus:
    """How far a workload is.

    Args:
        started_at: when it first ran.
        gpu_ids: indices of the GPUs that it was given.
    """

    state: WorkloadState = WorkloadState.PENDING
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    exit_code: I32 | None = None
    gpu_ids: tuple[U32, ...] = ()


class MountType(StrEnum):
    """What is mounted."""

    BIND = "bind"  # a directory or file of the host
    VOLUME = "volume"  # a named volume of the container engine
    TMPFS = "tmpfs"  # memory; it has no source


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """Something of the node that a container sees.

    Args:
        source: path on the host, or name of a volume.
        target: path in the container.
    """

    source: str
    target: str
    read_only: Annotated[bool, Absence.DEFAULT] = False
    mount_type: Annotated[MountType, Absence.DEFAULT] = MountType.BIND


@dataclass(frozen=True, slots=True)
class No:
    """It is not started again."""


@dataclass(frozen=True, slots=True)
class Always:
    """It is started again whenever it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnFailure:
    """It is started again when it fails, so many times; 0 is without limit."""

    max_retries: U32


@dataclass(frozen=True, slots=True)
class UnlessStopped:
    """It is started again unless it was asked to end."""


RestartPolicy: TypeAlias = No | Always | OnFailure | UnlessStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What to run. ``validate_workload_spec`` says whether it keeps the rules.

    Args:
        command: instead of the image's entry point.
        args: instead of the image's arguments.
        env: names and values.
        gpu_memory_mb: wanted on each of ``gpu_count`` GPUs; None takes them whole.
        ports: of the container, which are published.
    """

    image: str = ""
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    gpu_count: U32 = 0
    gpu_memory_mb: U64 | None = None
    cpu_millicores: U32 | None = None
    memory_mb: U64 | None = None
    ports: tuple[U16, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    restart_policy: RestartPolicy = No()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A workload: what to run, and how far it is."""

    id: WorkloadId = field(default_factory=WorkloadId.new)
    name: str = ""
    spec: WorkloadSpec = WorkloadSpec()
    status: WorkloadStatus = WorkloadStatus()
    created_at: Timestamp = EPOCH
    updated_at: Timestamp = EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is to change; None leaves it as it is."""

    heartbeat_interval_secs: U32 | None = None
    metrics_interval_secs: U32 | None = None
    max_concurrent_workloads: U32 | None = None
    log_level: str | None = None
