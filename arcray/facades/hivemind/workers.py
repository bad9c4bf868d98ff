"""Worker nodes to nodes and back: registration, health, readings, rewards. Wire units end here.

A worker takes programs, because that is all that the wire can say, and containers packed as such if it says so. What it
tells of itself that core has no word for stands in labels of its node and is shown again as it came.

Source: HiveMind API Documentation, "Node Management API" and "Worker Node API".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from arcray.core.commands import ReportEnd, Running
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, NodeId, foreign_id
from arcray.core.node import (
    DriverCapabilities,
    GpuTelemetry,
    Health,
    LeaseTerms,
    NodeRegistration,
    NodeView,
    Telemetry,
)
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.resources import Capacity, Gpu
from arcray.core.workload import Phase, Result, WorkloadView
from arcray.facades.hivemind.containers import offers_containers
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import INT32, name, sendable, text, whole
from arcray.facades.hivemind.tasks import FACADE, GPU_LABEL, OWNED_LABEL, POINTS_PER_CORE, Status, gpu_label, status_of
from arcray.wire.attachments import DRIVER

__all__ = [
    "LEASE",
    "HealthWord",
    "dial_address_of",
    "end_of",
    "health_answer",
    "is_listed",
    "is_same_process",
    "node_id_of",
    "node_info",
    "node_list",
    "reached",
    "reading_of",
    "registration_of",
    "reward_of",
    "speakers_of",
    "was_reached",
    "was_registered_by_a_user",
]

LEASE: Final = LeaseTerms(unhealthy_after_s=15.0, lost_after_s=30.0)
"""Workers report every 5 s: three missed ones stop placement, and the document's 30 s give their tasks up."""

_TEXT_LIMIT: Final = 256
_GB_LIMIT: Final = 2**20
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_HOST_LIMIT: Final = 253
_ZONE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}")  # the interface of a link-local address
_MINUTE_S: Final = 60
_HIGH_TRUST, _NORMAL_TRUST = 100, 50  # credits from which on a worker is trusted so
_CREDIT: Final = 100  # what a user begins with, and what the pool's own nodes are trusted with

_SPEAKER: Final = f"{FACADE}/registered-by"
_INSTANCE: Final = f"{FACADE}/instance"

# Labels, and the fields that they keep.
_NUMBERS: Final = ("cpu_cores", "cpu_score", "gpu_score", "trust_level", "port")
_TEXTS: Final = ("location", "gpu_name", "docker_status")


class HealthWord(StrEnum):
    """What ``HealthCheck`` says of a node."""

    HEALTHY = "healthy"
    OFFLINE = "offline"  # silent for more than 30 s, lost or gone
    NOT_FOUND = "not_found"


def node_id_of(node_id: str, field: str = "node_id") -> NodeId:
    """Returns the node of a worker.

    Raises:
        InvalidArgumentError: no worker can be called that; names ``field``.
    """
    return NodeId(foreign_id(FACADE, f"node:{name(node_id, field)}"))


def registration_of(
    request: pool.RegisterWorkerNodeRequest,
    *,
    owner: AccountId | None,
    speaker: AccountId | None = None,
    address: str = "",
    gpus: tuple[Gpu, ...] | None = None,
    instance: str = "",
) -> NodeRegistration:
    """Returns what a worker says of itself. Its heartbeat is not read: the pool goes by when it hears.

    It offers nothing yet: what a worker can do is offered once it was reached (``reached``).

    Args:
        owner: the user that its ``node_id`` names, who is paid for what runs on it; None where it names none.
        speaker: who registers it; from then on nobody else speaks for it. None is nobody in particular.
        address: of the process that dials it.
        gpus: all that it has, where it says so beside the message, which has one.
        instance: which process it is, where it says so.

    Raises:
        InvalidArgumentError: names the field.
    """
    node_id = node_id_of(request.node_id)
    whole(request.port, "port", low=1, high=65_535)
    _check_host(request.hostname)
    cores = whole(request.cpu_cores, "cpu_cores", low=0 if request.cpu_score else 1)
    points = whole(request.cpu_score, "cpu_score") or cores * POINTS_PER_CORE
    whole(request.gpu_score, "gpu_score")
    offered = _gpus(request) if gpus is None else gpus
    whole(request.trust_level, "trust_level", low=-INT32 - 1)
    return NodeRegistration(
        id=node_id,
        name=request.node_id,
        facade=FACADE,
        driver=DRIVER,
        capacity=Capacity(
            cpu_milli=points * CPU_MILLI // POINTS_PER_CORE,
            memory_bytes=whole(request.memory_gb, "memory_gb", high=_GB_LIMIT) * GIB,
            gpus=offered,
        ),
        lease=LEASE,
        external_id=request.node_id,
        address=address,
        hostname=request.hostname,
        labels=_labels(request, offered, owned=owner is not None, speaker=speaker)
        | ({_INSTANCE: instance} if instance else {}),
        owner=owner,
        tier=_tier(_CREDIT if owner is not None else request.trust_level, request.docker_status),
    )


def _tier(credit: int, docker_status: str) -> int:
    """Returns how far behind others a worker is chosen: high, normal and low trust."""
    if docker_status == "disabled" or credit < _NORMAL_TRUST:
        return 2
    return int(credit < _HIGH_TRUST)


def _gpus(request: pool.RegisterWorkerNodeRequest) -> tuple[Gpu, ...]:
    memory_gb = whole(request.gpu_memory_gb, "gpu_memory_gb", high=_GB_LIMIT)
    if not memory_gb and not request.gpu_score:
        return ()
    return (Gpu(index=0, memory_bytes=memory_gb * GIB, name=request.gpu_name),)


def _check_host(hostname: str) -> None:
    if not _is_host(hostname):
        raise InvalidArgumentError("must be an IP address or a host name", field="hostname")


def _is_host(hostname: str) -> bool:
    _, percent, zone = hostname.partition("%")
    if len(hostname) > _HOST_LIMIT or (percent and not _ZONE.fullmatch(zone)):  # Python takes anything for a zone
        return False
    try:
        ip_address(hostname)
    except ValueError:
        return _HOST.fullmatch(hostname) is not None
    return True


def dial_address_of(registration: NodeRegistration) -> str:
    """Returns where a worker is dialled: what it said of itself, which its node keeps."""
    hostname, port = registration.hostname, registration.labels[_label("port")]
    return f"[{hostname}]:{port}" if ":" in hostname else f"{hostname}:{port}"


def reached(registration: NodeRegistration) -> NodeRegistration:
    """Returns the registration of a worker that was reached, and so takes work."""
    containers = offers_containers(registration.labels.get(_label("docker_status"), ""))
    return replace(registration, capabilities=DriverCapabilities(programs=True, containers=containers))


def was_reached(registration: NodeRegistration) -> bool:
    """Returns whether a worker takes work."""
    return registration.capabilities.programs


def speakers_of(registration: NodeRegistration) -> frozenset[str]:
    """Returns the users who speak for a worker; empty where anybody does."""
    speaker = registration.labels.get(_SPEAKER)
    return frozenset(filter(None, (registration.owner, speaker)))


def is_same_process(one: NodeRegistration, other: NodeRegistration) -> bool | None:
    """Returns whether two registrations of a worker are by one process; None where that is not said."""
    instances = [each.labels.get(_INSTANCE, "") for each in (one, other)]
    return instances[0] == instances[1] if all(instances) else None


def was_registered_by_a_user(registration: NodeRegistration) -> bool:
    """Returns whether who registered a worker showed a token."""
    return _SPEAKER in registration.labels


def _labels(
    request: pool.RegisterWorkerNodeRequest, gpus: Sequence[Gpu], *, owned: bool, speaker: AccountId | None
) -> dict[str, str]:
    labels = {_label(field): str(getattr(request, field)) for field in _NUMBERS}
    labels |= {_label(field): text(getattr(request, field), field, longest=_TEXT_LIMIT) for field in _TEXTS}
    alike = len({gpu.name for gpu in gpus}) <= 1  # which of several a task gets, a label cannot say
    labels[GPU_LABEL] = gpu_label(request.gpu_name) if alike else ""
    labels[_SPEAKER] = speaker or ""
    if owned:
        labels[OWNED_LABEL] = "true"
    return {key: value for key, value in labels.items() if value}


def _label(field: str) -> str:
    return f"{FACADE}/{field.replace('_', '-')}"


def is_listed(view: NodeView, now: datetime) -> bool:
    """Returns whether a node was heard of within the last 30 s."""
    silent = now - view.last_seen
    return view.health in (Health.HEALTHY, Health.UNHEALTHY) and silent <= timedelta(seconds=LEASE.lost_after_s)


def health_answer(view: NodeView | None, now: datetime) -> pool.HealthCheckResponse:
    """Returns how a node does; None is one that nobody knows."""
    if view is None:
        return pool.HealthCheckResponse(status=HealthWord.NOT_FOUND.value, message="no such node")
    if not is_listed(view, now):
        return pool.HealthCheckResponse(
            status=HealthWord.OFFLINE.value, message=f"last heard of at {view.last_seen:%Y-%m-%dT%H:%M:%SZ}"
        )
    return pool.HealthCheckResponse(status=HealthWord.HEALTHY.value)


def node_list(views: Sequence[NodeView], now: datetime, *, others: bool) -> pool.GetNodeListResponse:
    """Returns the nodes that were heard of within the last 30 s.

    Args:
        others: nodes that joined by other protocols too.
    """
    shown = (view for view in views if others or view.registration.facade == FACADE)
    return pool.GetNodeListResponse(nodes=[node_info(view) for view in shown if is_listed(view, now)])


def node_info(view: NodeView) -> pool.WorkerNodeInfo:
    """Returns a node as lists show it: a worker as it registered, another as it would have."""
    registration = view.registration
    capacity = registration.capacity
    info = pool.WorkerNodeInfo(
        node_id=sendable(registration.external_id or registration.id),
        hostname=sendable(registration.hostname),
        memory_gb=min(INT32, capacity.memory_bytes // GIB),
        gpu_memory_gb=min(INT32, sum(gpu.memory_bytes for gpu in capacity.gpus) // GIB),
        last_heartbeat=view.last_seen.timestamp(),
    )
    if registration.facade == FACADE:
        labels = registration.labels
        for field in _NUMBERS:
            setattr(info, field, int(labels.get(_label(field), "0")))
        for field in _TEXTS:
            setattr(info, field, labels.get(_label(field), ""))
        return info
    info.cpu_cores = min(INT32, capacity.cpu_milli // CPU_MILLI)
    info.cpu_score = min(INT32, capacity.cpu_milli * POINTS_PER_CORE // CPU_MILLI)
    info.location = sendable(registration.location.geozone)
    info.gpu_name = sendable(capacity.gpus[0].name) if capacity.gpus else ""
    info.trust_level = _CREDIT
    return info


def reading_of(request: pool.RunningStatusRequest, registration: NodeRegistration, now: datetime) -> Telemetry:
    """Returns what a worker reads of itself, in percent; more than 100 is 100, as of several cores.

    Raises:
        InvalidArgumentError: a reading is negative; names it.
    """
    memory = _share(request.memory_usage, "memory_usage")
    gpu, gpu_memory = _share(request.gpu_usage, "gpu_usage"), _share(request.gpu_memory_usage, "gpu_memory_usage")
    capacity = registration.capacity
    return Telemetry(
        at=now,
        cpu_utilization=_share(request.cpu_usage, "cpu_usage"),
        memory_used_bytes=round(capacity.memory_bytes * memory),
        gpus=tuple(
            GpuTelemetry(index=each.index, utilization=gpu, memory_used_bytes=round(each.memory_bytes * gpu_memory))
            for each in capacity.gpus
        ),
    )


def _share(percent: int, field: str) -> float:
    return min(100, whole(percent, field)) / 100


def reward_of(view: WorkloadView, node_id: NodeId, now: datetime) -> int:
    """Returns what a task has earned the owner of its node so far, in whole credits; 0 while there is none to pay.

    What is paid in fact is each begun minute, and is in the owner's account.
    """
    meter = view.meter
    runs_here = view.node_id == node_id and status_of(view) is Status.RUNNING
    if not runs_here or meter is None or meter.payee is None or meter.since is None:
        return 0
    ran_s = max(0.0, (now - meter.since).total_seconds())
    return int(meter.rate * ran_s) // _MINUTE_S


def end_of(work: Running, node_id: NodeId, epoch: int, *, succeeded: bool, blobs: Sequence[str] = ()) -> ReportEnd:
    """Returns the end of a task as its worker tells it.

    Args:
        work: the attempt that the worker was given.
        blobs: keys of what it returned.
    """
    return ReportEnd(
        node_id=node_id,
        epoch=epoch,
        workload_id=work.workload_id,
        attempt=work.attempt,
        phase=Phase.SUCCEEDED if succeeded else Phase.FAILED,
        message="" if succeeded else "its worker says that it failed",
        result=Result(blobs=tuple(sorted(blobs))),
    )
