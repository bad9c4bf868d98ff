"""The Resource Pool's words: what its frames and bodies say, as values. Names and units are the wire's.

Numbers stay what they came as: integers integers, and a fraction that is none is an integer too, as JavaScript writes
it, because clients of the protocol keep some of them as integers.

Source: Resource Pool API Documentation, "WebSocket API", "REST API Endpoints", "Resource Requirements Format".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

__all__ = [
    "CAN_RUN",
    "CAN_RUN_IMAGES",
    "Allocated",
    "Allocation",
    "ClientMessage",
    "Device",
    "Heartbeat",
    "Misread",
    "Number",
    "Register",
    "Requirements",
    "ResourceRelease",
    "ResourceRequest",
    "ResourceUpdate",
    "Resources",
    "Task",
    "TaskComplete",
    "TaskSubmit",
]

Number: TypeAlias = int | float

CAN_RUN: Final = "task"
"""Capability of a device that runs programs."""

CAN_RUN_IMAGES: Final = "container"
"""Capability of one that runs container images too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a device has and what of it is free; the values of a device that has told nothing yet.

    Args:
        cpu_usage, cpu_available, gpu_usage: percent.
        memory_usage, memory_available, memory_total: MB, 2^20 bytes.
        storage_usage, storage_available, storage_total: MB, 10^6 bytes.
    """

    cpu_usage: Number = 0
    cpu_available: Number = 100
    cpu_cores: Number = 0
    memory_usage: Number = 0
    memory_available: Number = 0
    memory_total: Number = 0
    storage_usage: Number = 0
    storage_available: Number = 0
    storage_total: Number = 0
    has_gpu: bool = False
    gpu_name: str | None = None
    gpu_usage: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as lists show it.

    Args:
        ip_address: where it is connected from.
        last_seen: when it was last heard.
    """

    id: str
    name: str
    platform: str
    ip_address: str
    last_seen: datetime
    is_online: bool = True
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What is wanted.

    Args:
        cpu: percent.
        memory: MB, 2^20 bytes.
        storage: MB, 10^6 bytes.
    """

    cpu: Number = 0
    memory: Number = 0
    storage: Number = 0
    gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """What one device gives to an allocation."""

    device_id: str
    device_name: str
    cpu: Number = 0
    memory: Number = 0
    storage: Number = 0
    gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The answer to a request.

    Args:
        requirements: as they were asked for, member by member.
        fulfilled: all of it is held; otherwise nothing is, and ``allocated`` says what there would be.
    """

    id: str
    requesting_device: str
    timestamp: datetime
    requirements: Mapping[str, Any]
    fulfilled: bool
    allocated: Sequence[Allocated]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task.

    Args:
        id: "" where its sender gave it none.
        submitter_id: the device that hands it in; "" where it does not say.
        command: names a program; "" where the task names none.
        input: what it reads, as text; what was no text is the JSON that it came as; None where there is none.
    """

    id: str = ""
    type: str = ""
    submitter_id: str = ""
    requirements: Requirements = Requirements()
    command: str = ""
    input: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """A device joins.

    Args:
        device_id: "" has the server choose one.
        max_tasks: that it runs at a time; 0 is as many as fit.
    """

    device_id: str = ""
    device_name: str = ""
    platform: str = ""
    capabilities: frozenset[str] = frozenset()
    max_tasks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A sign of life."""

    device_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUpdate:
    """What a device has now.

    Args:
        changes: fields of ``Resources`` that were told, by their names there.
    """

    device_id: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRequest:
    """An allocation is wanted.

    Args:
        asked: the requirements as they came, for the answer.
    """

    device_id: str
    requirements: Requirements
    asked: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRelease:
    """An allocation is given back."""

    allocation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmit:
    """A task is handed in."""

    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Misread:
    """A task is handed in that cannot be read; who waits for it is told why.

    Args:
        task_id: "" where it has none that can be read.
    """

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComplete:
    """A device has done a task that it was given, or could not.

    Args:
        output: what the program wrote; of a failure as far as it came.
        error: why it failed; "" of a success.
        exit_code: of what ran; None where it is not told.
        refused: of a failure: the device never began it, so that another one may.
        files: that it left as its result, by their paths.
    """

    device_id: str
    task_id: str
    success: bool
    output: str = ""
    error: str = ""
    exit_code: int | None = None
    refused: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)


ClientMessage: TypeAlias = (
    Register | Heartbeat | ResourceUpdate | ResourceRequest | ResourceRelease | TaskSubmit | Misread | TaskComplete
)
