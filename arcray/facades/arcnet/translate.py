"""ArcNet's messages to core's words and back: units, names, and the facts that one side lacks.

What lives here: how a status is derived, what stands in for a missing geohash, GPU or position. Wire units end here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any, Final, assert_never

from arcray.core.errors import InvalidArgumentError
from arcray.core.geozones import UNKNOWN, centre_of, encode_geohash, locate
from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.node import EnergySource, Health, Location, NodeRegistration, NodeView, Telemetry
from arcray.core.quantity import GIB
from arcray.core.queries import ClusterStats
from arcray.core.workload import Inference, Origin, Phase, WorkloadSpec, WorkloadView
from arcray.facades.arcnet.messages import (
    InferenceAnswer,
    InferenceRequest,
    InferenceStatus,
    NodeDetail,
    NodeStatus,
    NodeTelemetry,
)

__all__ = [
    "FACADE",
    "answer_of",
    "latency_ms",
    "location_of",
    "model_id_of",
    "node_of",
    "request_id_of",
    "requester_position",
    "spec_of",
    "stats_of",
    "status_of_phase",
    "telemetry_of",
]

FACADE: Final = "arcnet"

STALE_AFTER: Final = timedelta(seconds=30)
OFFLINE_AFTER: Final = timedelta(seconds=300)
_FLAT_BATTERY: Final = 0.1
_BUSY_ABOVE: Final = 0.8
_IDLE_UP_TO: Final = 0.3
_NOWHERE: Final = Location()


def spec_of(
    request: InferenceRequest,
    *,
    account: AccountId,
    workload_id: str,
    now: datetime,
    key: str,
    digest: str,
    waiting: bool,
) -> WorkloadSpec:
    """Returns the workload that a request asks for.

    Args:
        key: idempotency key of the submission; "" when there is none.
        digest: of the body, compared when the key comes again.
    """
    longitude, latitude = request.source or (None, None)
    position = request.source or centre_of(request.requester_geozone)
    return WorkloadSpec(
        id=WorkloadId(workload_id),
        origin=Origin(facade=FACADE, account=account, external_id=request.request_id),
        payload=Inference(
            model_id=ModelId(request.model_id),
            input=request.input,
            context_window_tokens=request.context_window_tokens,
            max_latency_ms=request.max_latency_ms,
            requester_geozone=request.requester_geozone,
            geohash="" if position is None else encode_geohash(*position),
            longitude=longitude,
            latitude=latitude,
        ),
        created_at=now,
        priority=request.priority,
        request_id=key,
        request_digest=digest,
        waiting=waiting,
    )


def request_id_of(spec: WorkloadSpec) -> str:
    """Returns the id by which ArcNet knows a request."""
    return spec.origin.external_id or spec.id


def model_id_of(spec: WorkloadSpec) -> ModelId:
    """Returns the model that a request names."""
    assert isinstance(spec.payload, Inference), "only inference requests name a model"
    return spec.payload.model_id


def requester_position(payload: Inference) -> tuple[float, float] | None:
    """Returns where a request comes from: its own position, else the centre of its zone, else None."""
    if payload.longitude is not None and payload.latitude is not None:
        return payload.longitude, payload.latitude
    return centre_of(payload.requester_geozone)


def status_of_phase(phase: Phase) -> InferenceStatus:
    """Returns how far a request is."""
    match phase:
        case Phase.PENDING:
            return InferenceStatus.PENDING
        case Phase.PLACED | Phase.PULLING | Phase.STARTING:
            return InferenceStatus.DISPATCHED
        case Phase.RUNNING | Phase.STOPPING:
            return InferenceStatus.PROCESSING
        case Phase.SUCCEEDED:
            return InferenceStatus.COMPLETED
        case Phase.FAILED | Phase.STOPPED:
            return InferenceStatus.FAILED
        case Phase.REJECTED:
            return InferenceStatus.REJECTED
        case _:
            assert_never(phase)


def latency_ms(created_at: datetime, finished_at: datetime) -> int:
    """Returns whole milliseconds; the two clocks may differ by a little, so never less than 0."""
    return max(0, round((finished_at - created_at).total_seconds() * 1000))


def answer_of(view: WorkloadView) -> InferenceAnswer:
    """Returns what became of a request."""
    status = status_of_phase(view.phase)
    latency = None
    if status is InferenceStatus.COMPLETED and view.finished_at is not None:
        latency = latency_ms(view.spec.created_at, view.finished_at)
    result = view.result
    return InferenceAnswer(
        request_id=request_id_of(view.spec),
        status=status,
        target_node_id=view.node_id or "",
        model_id=model_id_of(view.spec),
        latency_ms=latency,
        output=result.output if result else None,
        pid=result.pid if result else None,
        reason=view.message,
    )


def location_of(registration: NodeRegistration) -> Location:
    """Returns where a node stands; a node that told only its geohash gets position and zone from it."""
    location = registration.location
    if location.geozone not in ("", UNKNOWN) or location.geohash in ("", _NOWHERE.geohash):
        return location
    try:
        return locate(location.geohash)
    except InvalidArgumentError:
        return location  # a foreign node may say anything; what it said is shown


def telemetry_of(
    registration: NodeRegistration, telemetry: Telemetry | None, models: tuple[ModelSlots, ...], seen: datetime
) -> NodeTelemetry:
    """Returns a node's reading.

    Args:
        telemetry: None before the first one; then the node counts as unloaded and on grid.
        seen: when it was last heard; stands in for the time of a reading that there is not.
    """
    total, used = _gpu_memory(registration, telemetry)
    return NodeTelemetry(
        id=registration.id,
        geohash=registration.location.geohash or _NOWHERE.geohash,
        energy_source=telemetry.energy_source if telemetry else EnergySource.GRID,
        battery_level=telemetry.battery_level if telemetry else 1.0,
        gpu_utilization=_load(telemetry),
        gpu_memory_free_gb=_gib(max(0, total - used)),
        models_loaded=tuple(sorted(slots.model_id for slots in models)),
        timestamp=telemetry.at if telemetry else seen,
    )


def node_of(view: NodeView, now: datetime) -> NodeDetail:
    """Returns a node as REST shows it."""
    registration = view.registration
    reading = telemetry_of(registration, view.telemetry, view.models, view.last_seen)
    location = location_of(registration)
    return NodeDetail(
        telemetry=reading,
        name=registration.name,
        status=_status(view, reading, now),
        geozone=location.geozone,
        position=(location.longitude, location.latitude),
        gpu_count=len(registration.capacity.gpus),
        gpu_memory_total_gb=_gib(sum(gpu.memory_bytes for gpu in registration.capacity.gpus)),
        last_seen=view.last_seen,
        driver=registration.driver,
        external_id=registration.external_id or registration.id,
    )


def stats_of(stats: ClusterStats, now: datetime) -> dict[str, Any]:
    """Returns the body of ``GET /api/v1/stats``."""
    nodes = [node_of(view, now) for view in stats.nodes]
    alive = [node for node in nodes if node.status is not NodeStatus.OFFLINE]
    statuses = Counter(node.status for node in nodes)
    with_gpu = [node for node in alive if node.gpu_count]
    inference = stats.inference
    return {
        "nodes": {"total": len(nodes)} | {status.value: statuses[status] for status in NodeStatus},
        "gpus": {
            "total": sum(node.gpu_count for node in alive),
            "memoryTotalGb": _sum(node.gpu_memory_total_gb for node in alive),
            "memoryFreeGb": _sum(node.telemetry.gpu_memory_free_gb for node in alive),
            "utilization": round(fmean(node.telemetry.gpu_utilization for node in with_gpu), 4) if with_gpu else 0.0,
        },
        "inference": {
            "dispatched": inference.dispatched,
            "completed": inference.completed,
            "failed": inference.failed,
            "rejected": inference.rejected,
            "inFlight": inference.in_flight,
            "latencyMs": {"p50": inference.latency_ms_p50, "p99": inference.latency_ms_p99},
        },
        "energy": _counts((node.telemetry.energy_source.value for node in alive), EnergySource),
        "geozones": _counts(node.geozone for node in alive),
        "uptimeS": round(stats.uptime_s, 3),
    }


def _status(view: NodeView, reading: NodeTelemetry, now: datetime) -> NodeStatus:
    silent = now - view.last_seen
    if view.health in (Health.LOST, Health.GONE) or silent > OFFLINE_AFTER:
        return NodeStatus.OFFLINE
    if view.health is Health.UNHEALTHY or silent > STALE_AFTER:
        return NodeStatus.STALE
    if reading.battery_level < _FLAT_BATTERY and reading.energy_source is not EnergySource.GRID:
        return NodeStatus.OFFLINE
    if reading.gpu_utilization > _BUSY_ABOVE:
        return NodeStatus.BUSY
    return NodeStatus.IDLE if reading.gpu_utilization <= _IDLE_UP_TO else NodeStatus.ONLINE


def _load(telemetry: Telemetry | None) -> float:
    if telemetry is None:
        return 0.0
    if not telemetry.gpus:
        return round(telemetry.cpu_utilization, 4)
    return round(fmean(gpu.utilization for gpu in telemetry.gpus), 4)


def _gpu_memory(registration: NodeRegistration, telemetry: Telemetry | None) -> tuple[int, int]:
    total = sum(gpu.memory_bytes for gpu in registration.capacity.gpus)
    return total, sum(gpu.memory_used_bytes for gpu in telemetry.gpus) if telemetry else 0


def _gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 3)


def _sum(values: Iterable[float]) -> float:
    return round(sum(values), 3)


def _counts(found: Iterable[str], always: Iterable[str] = ()) -> dict[str, int]:
    """Returns how often each word occurs, sorted; ``always`` names words that are shown with 0 too."""
    return dict.fromkeys(map(str, always), 0) | dict(sorted(Counter(found).items()))
