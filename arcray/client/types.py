"""What the client returns: typed views of JSON bodies. Unknown members are ignored, so an older client works on.

``raw`` keeps the whole body for members that have no attribute here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from arcray.core.gang import Gang
from arcray.core.reservation import ReservationState
from arcray.core.resources import NO_DEMAND, Demand
from arcray.core.workload import Phase, Priority, RestartPolicy

__all__ = [
    "Answer",
    "ModelInfo",
    "NodeInfo",
    "ReservationInfo",
    "ResultFile",
    "SliceInfo",
    "WorkOptions",
    "WorkloadInfo",
    "demand_body",
]

_MIB = 2**20


def demand_body(demand: Demand) -> dict[str, Any]:
    """Returns a demand as the API spells it: whole cores and MiB."""
    body: dict[str, Any] = {
        "cpu": demand.cpu_milli / 1000,
        "memoryMb": demand.memory_bytes // _MIB,
        "gpus": demand.gpus,
    }
    if demand.gpu_memory_bytes is not None:
        body["gpuMemoryMb"] = demand.gpu_memory_bytes // _MIB
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """What may be said about any work besides what to run.

    Args:
        demand: what it asks of its node.
        node_id: the only node allowed; "" lets placement choose.
        selector: labels that the node must carry; as text also ``zone in (eu,us),disk!=slow,gpu,!spot``.
        restart: when ended work starts again; None leaves it to the server, which does not.
        max_duration_s: running longer is stopped and failed; None is no limit.
        preemptible: it may be ended, and started again later, for work of a higher priority.
        gang: it starts together with the other members or not at all.
        reservation_id: it takes its place out of this reservation; "" names none.
    """

    name: str = ""
    demand: Demand = NO_DEMAND
    priority: Priority = Priority.NORMAL
    restart: RestartPolicy | None = None
    node_id: str = ""
    selector: Mapping[str, str] | str = field(default_factory=dict)
    max_duration_s: float | None = None
    preemptible: bool = False
    gang: Gang | None = None
    reservation_id: str = ""

    def body(self) -> dict[str, Any]:
        """Returns the members of a submission that differ from the defaults."""
        body: dict[str, Any] = {}
        if self.name:
            body["name"] = self.name
        if self.demand != NO_DEMAND:
            body["demand"] = demand_body(self.demand)
        if self.priority is not Priority.NORMAL:
            body["priority"] = self.priority.name.lower()
        if self.restart is not None:
            body["restartPolicy"] = {"rule": self.restart.rule.value, "maxRestarts": self.restart.max_restarts}
        if self.node_id:
            body["nodeId"] = self.node_id
        if self.selector:
            body["selector"] = self.selector if isinstance(self.selector, str) else dict(self.selector)
        if self.max_duration_s is not None:
            body["maxDurationS"] = self.max_duration_s
        body |= self._standing()
        return body

    def _standing(self) -> dict[str, Any]:
        """Returns the members that say how it stands to other work, where they differ from the defaults."""
        body: dict[str, Any] = {}
        if self.preemptible:
            body["preemptible"] = True
        if self.gang is not None:
            body["gang"] = {"id": self.gang.id, "size": self.gang.size, "layout": self.gang.layout.value}
        if self.reservation_id:
            body["reservationId"] = self.reservation_id
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A machine of the pool.

    Args:
        status: online, busy, idle, stale or offline.
        gpu_utilization: 0.0 to 1.0; the CPU's load on a machine without GPUs.
    """

    id: str
    name: str
    status: str
    driver: str
    gpu_count: int
    gpu_memory_total_gb: float
    gpu_utilization: float
    models_loaded: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``GET /api/v1/nodes``."""
        return cls(
            id=body["id"],
            name=body.get("name", ""),
            status=body.get("status", ""),
            driver=body.get("driver", ""),
            gpu_count=body.get("gpuCount", 0),
            gpu_memory_total_gb=body.get("gpuMemoryTotalGb", 0.0),
            gpu_utilization=body.get("gpuUtilization", 0.0),
            models_loaded=tuple(body.get("modelsLoaded", ())),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadInfo:
    """A piece of work.

    Args:
        node_id: where it runs or ran; None before it is placed.
        message: last word about it for people: why it waits, why it failed.
        exit_code: of its process; None while it has not ended, or where there was none.
        duration_ms: on its node, from start to end; None while it has not ended.
    """

    id: str
    kind: str
    name: str
    phase: Phase
    node_id: str | None
    attempt: int
    message: str
    exit_code: int | None
    duration_ms: float | None
    pid: int | None
    created_at: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``/api/v1/workloads``."""
        return cls(
            id=body["id"],
            kind=body.get("kind", ""),
            name=body.get("name", ""),
            phase=Phase(body["phase"]),
            node_id=body.get("nodeId"),
            attempt=body.get("attempt", 0),
            message=body.get("message", ""),
            exit_code=body.get("exitCode"),
            duration_ms=body.get("durationMs"),
            pid=body.get("pid"),
            created_at=body.get("createdAt", ""),
            raw=body,
        )

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.phase is Phase.SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceInfo:
    """What a reservation holds of one node, and what is left of that; both as the API spells a demand."""

    node_id: str
    granted: Mapping[str, Any]
    left: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationInfo:
    """Slices of nodes that are held without a workload.

    Args:
        expires_at: when what is left of it is given back, in ISO 8601.
        message: why it ended.
    """

    id: str
    state: ReservationState
    slices: tuple[SliceInfo, ...]
    expires_at: str
    message: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``/api/v1/reservations``."""
        return cls(
            id=body["id"],
            state=ReservationState(body["state"]),
            slices=tuple(
                SliceInfo(node_id=part["nodeId"], granted=part["demand"], left=part["left"]) for part in body["slices"]
            ),
            expires_at=body.get("expiresAt", ""),
            message=body.get("message", ""),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file that a program left in ``$ARCRAY_RESULT_DIR``; ``path`` is relative to it."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A registered model.

    Args:
        ready_on: nodes that answer for it now, sorted.
        pids: processes of its copies, where they are known.
        messages: what there is to say about its copies, as why one fails or is not offered.
    """

    name: str
    format: str
    ready_on: tuple[str, ...]
    pids: tuple[int, ...]
    messages: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``/api/v1/models``."""
        return cls(
            name=body["name"],
            format=body.get("format", ""),
            ready_on=tuple(body.get("readyOn", ())),
            pids=tuple(server["pid"] for server in body.get("servers", ()) if server.get("pid")),
            messages=tuple(server["message"] for server in body.get("servers", ()) if server.get("message")),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model answered.

    Args:
        output: JSON as the model gave it.
        latency_ms: from the request's arrival at the gateway to its answer.
        node_id: the machine that answered.
        pid: process that answered on that machine; None where unknown.
    """

    request_id: str
    model: str
    output: Any
    latency_ms: float
    node_id: str
    pid: int | None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a body of ``POST /api/v1/inference``."""
        return cls(
            request_id=body["requestId"],
            model=body["modelId"],
            output=body.get("output"),
            latency_ms=body["latencyMs"],
            node_id=body["targetNodeId"],
            pid=(body.get("servedBy") or {}).get("pid"),
        )
