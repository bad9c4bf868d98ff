"""Devices to the pool's nodes and back: registration, readings, lease; and nodes of other protocols as devices.

A device's processors are worth a percentage, of which 100 is all of it; a device that has not told how many it has
counts as one core. Its GPU has no size on the wire and so is lent whole.

Source: Resource Pool API Documentation, "GET /api/devices".
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import ConflictError
from arcray.core.ids import NodeId, foreign_id
from arcray.core.node import (
    DriverCapabilities,
    GpuTelemetry,
    Health,
    LeaseTerms,
    NodeRegistration,
    NodeView,
    Telemetry,
)
from arcray.core.quantity import CPU_MILLI, MAX_QUANTITY, MB, MIB
from arcray.core.resources import Capacity, Gpu
from arcray.facades.pool.codec import number
from arcray.facades.pool.messages import CAN_RUN_IMAGES, Device, Number, Resources
from arcray.facades.pool.session import Member
from arcray.wire.attachments import DRIVER

__all__ = [
    "DEVICE_LABEL",
    "FACADE",
    "LEASE",
    "PERCENT_MILLI",
    "check_is_device",
    "device_of",
    "is_shown",
    "lease_of",
    "node_id_of",
    "reading_of",
    "registration_of",
    "resources_of",
]

FACADE: Final = "pool"
DEVICE_LABEL: Final = "pool/device"
"""Label of a device's node, with the node's id: by it work stays off the device that hands it in."""

PERCENT_MILLI: Final = CPU_MILLI // 100
"""What one percent of one core is."""

_ALL: Final = 100
_LABEL_PLATFORM: Final = "pool/platform"


def lease_of(heartbeat_s: float) -> LeaseTerms:
    """Returns the lease of a device: the process that it is connected to has it leave; this is for when that dies."""
    return LeaseTerms(unhealthy_after_s=heartbeat_s, lost_after_s=2 * heartbeat_s)


LEASE: Final = lease_of(30.0)


def node_id_of(device_id: str) -> NodeId:
    """Returns the node of a device."""
    return NodeId(foreign_id(FACADE, device_id))


def check_is_device(known: NodeView | None, device_id: str) -> None:
    """Refuses the id of another node, whose place would be taken otherwise.

    Raises:
        ConflictError: it is such an id.
    """
    if known is None:
        return
    registration = known.registration
    if registration.facade != FACADE or registration.external_id != device_id:
        raise ConflictError("is the id of another node", field="deviceId")


def registration_of(member: Member, lease: LeaseTerms, *, address: str = "") -> NodeRegistration:
    """Returns what the cluster is told of a device.

    Args:
        address: of the process that it is connected to.
    """
    device, has = member.device, member.device.resources
    node_id = node_id_of(device.id)
    platform = "".join(letter for letter in device.platform if letter.isascii() and letter.isalnum())
    return NodeRegistration(
        id=node_id,
        name=device.name,
        facade=FACADE,
        driver=DRIVER,
        capacity=Capacity(
            cpu_milli=_milli(has),
            memory_bytes=_bytes(has.memory_total, MIB),
            disk_bytes=_bytes(has.storage_total, MB),
            gpus=(Gpu(index=0, memory_bytes=0, name=has.gpu_name or ""),) if has.has_gpu else (),
        ),
        lease=lease,
        capabilities=DriverCapabilities(
            programs=member.runs, containers=member.runs and CAN_RUN_IMAGES in member.capabilities
        ),
        external_id=device.id,
        address=address,
        labels={DEVICE_LABEL: node_id} | ({_LABEL_PLATFORM: platform} if platform else {}),
        max_workloads=member.max_tasks or None,
    )


def reading_of(member: Member) -> Telemetry:
    """Returns what a device told last, as a reading."""
    device, has = member.device, member.device.resources
    gpus: tuple[GpuTelemetry, ...] = ()
    if has.has_gpu:
        gpus = (GpuTelemetry(index=0, utilization=_fraction(has.gpu_usage or 0), memory_used_bytes=0),)
    return Telemetry(
        at=device.last_seen,
        cpu_utilization=_fraction(has.cpu_usage),
        memory_used_bytes=_bytes(has.memory_usage, MIB),
        disk_used_bytes=_bytes(has.storage_usage, MB),
        gpus=gpus,
    )


def is_shown(view: NodeView, *, cluster: bool) -> bool:
    """Returns whether a node that is not connected here stands in lists.

    Args:
        cluster: whether those of other protocols do.
    """
    registration = view.registration
    if view.health in (Health.LOST, Health.GONE):
        return False
    return registration.facade == FACADE or cluster


def device_of(view: NodeView) -> Device:
    """Returns a node that is not connected here as a device."""
    registration = view.registration
    return Device(
        id=registration.external_id if registration.facade == FACADE else registration.id,
        name=registration.name,
        platform=registration.labels.get(_LABEL_PLATFORM, "linux" if registration.facade != FACADE else "unknown"),
        ip_address=registration.hostname,
        last_seen=view.last_seen,
        is_online=view.health is Health.HEALTHY,
        resources=resources_of(
            registration,
            view.telemetry,
            free_milli=view.cpu_milli_free,
            free_bytes=view.memory_bytes_free,
        ),
    )


def resources_of(
    registration: NodeRegistration,
    reading: Telemetry | None,
    *,
    free_milli: int | None = None,
    free_bytes: int | None = None,
) -> Resources:
    """Returns what a node has, and what of it is neither used nor given to anybody.

    Args:
        free_milli, free_bytes: given to nobody; None where that is not known.
    """
    capacity = registration.capacity
    cpu_usage = _ALL * (reading.cpu_utilization if reading else 0.0)
    unused = _ALL - cpu_usage
    if free_milli is not None and capacity.cpu_milli:
        unused = min(unused, _ALL * max(0, free_milli) / capacity.cpu_milli)
    used_bytes = reading.memory_used_bytes if reading else 0
    left_bytes = max(0, capacity.memory_bytes - used_bytes)
    if free_bytes is not None:
        left_bytes = min(left_bytes, max(0, free_bytes))
    disk_used_bytes = min(reading.disk_used_bytes if reading else 0, capacity.disk_bytes)
    gpus, readings = capacity.gpus, reading.gpus if reading else ()
    load = _ALL * sum(gpu.utilization for gpu in readings) / len(readings) if readings else 0.0
    return Resources(
        cpu_usage=_rounded(cpu_usage),
        cpu_available=_rounded(unused),
        cpu_cores=capacity.cpu_milli // CPU_MILLI,
        memory_usage=min(used_bytes, capacity.memory_bytes) // MIB,
        memory_available=left_bytes // MIB,
        memory_total=capacity.memory_bytes // MIB,
        storage_usage=disk_used_bytes // MB,
        storage_available=(capacity.disk_bytes - disk_used_bytes) // MB,
        storage_total=capacity.disk_bytes // MB,
        has_gpu=bool(gpus),
        gpu_name=(gpus[0].name or None) if gpus else None,
        gpu_usage=_rounded(load) if gpus else None,
    )


def _milli(has: Resources) -> int:
    return max(1, min(int(has.cpu_cores), MAX_QUANTITY // CPU_MILLI)) * CPU_MILLI


def _bytes(megabytes: Number, unit: int) -> int:
    return min(int(megabytes * unit), MAX_QUANTITY)


def _fraction(percent: Number) -> float:
    return min(_ALL, percent) / _ALL


def _rounded(percent: float) -> Number:
    return number(round(percent, 2))
