"""What has happened to a workload, for the audit log.

``EventMetadata``, which the document names and does not define, is that of the protocol's first implementation.

Source: claw-proto API Reference, "Events".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from arcray.claw_proto.ids import NodeId, WorkloadId
from arcray.claw_proto.shapes import I32, U32
from arcray.claw_proto.timestamp import Timestamp

__all__ = [
    "Completed",
    "Created",
    "EventMetadata",
    "Failed",
    "Scheduled",
    "Started",
    "Stopped",
    "WorkloadEvent",
    "WorkloadEventKind",
]


@dataclass(frozen=True, slots=True)
class Created:
    """It was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """It was given to a node."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Started:
    """It runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """It ended because it was asked to."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """It ended badly."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """It ended by itself."""

    exit_code: I32


WorkloadEventKind: TypeAlias = Created | Scheduled | Started | Stopped | Failed | Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMetadata:
    """What else is known of an event.

    Args:
        node_id: as text, because nodes of other protocols are told of too.
    """

    message: str | None = None
    exit_code: I32 | None = None
    error: str | None = None
    gpu_ids: tuple[U32, ...] = ()
    node_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEvent:
    """Something that has happened to a workload."""

    kind: WorkloadEventKind
    workload_id: WorkloadId
    metadata: EventMetadata = EventMetadata()
    timestamp: Timestamp
