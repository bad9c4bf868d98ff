"""Claw nodes to the pool's nodes: registration, readings, lease.

A node of the document tells of its GPUs and says nothing of its processors and memory. It is taken to have as much as
the document lets anybody ask for; what it cannot run, it refuses, and the work goes elsewhere.

Source: claw-proto API Reference, "NodeCapabilities", "GpuMetricsProto".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.validation import MAX_CPU_MILLICORES, MAX_MEMORY_MB
from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.core.ids import NodeId
from arcray.core.node import (
    DriverCapabilities,
    GpuTelemetry,
    LeaseTerms,
    NodeRegistration,
    NodeView,
    Telemetry,
)
from arcray.core.quantity import CPU_MILLI, MAX_QUANTITY, MIB, bounded
from arcray.core.resources import MAX_GPUS_PER_NODE, Capacity, Gpu
from arcray.wire.attachments import DRIVER

__all__ = [
    "FACADE",
    "HEARTBEAT_S",
    "LEASE",
    "METRICS_S",
    "check_is_claw",
    "node_id_of",
    "reading_of",
    "registration_of",
]

FACADE: Final = "claw"
HEARTBEAT_S: Final = 30
METRICS_S: Final = 10
LEASE: Final = LeaseTerms(unhealthy_after_s=60.0, lost_after_s=150.0)
"""Two and five missed heartbeats."""

_NAME_LIMIT: Final = 128
_TEXT_LIMIT: Final = 256
_RUNTIMES_LIMIT: Final = 32
_MAX_MB: Final = MAX_QUANTITY // MIB


def node_id_of(node_id: claw.NodeId) -> NodeId:
    """Returns the node of a claw node: its id is a UUID, and so is its own."""
    return NodeId(str(node_id))


def check_is_claw(known: NodeView | None) -> None:
    """Refuses the id of a node that joined by another protocol, whose place would be taken otherwise.

    Raises:
        ConflictError: it is such an id.
    """
    if known is not None and known.registration.facade != FACADE:
        raise ConflictError("is the id of a node of another protocol", field="node_id")


def registration_of(register: claw.Register | original.Register, *, address: str = "") -> NodeRegistration:
    """Returns what a node says of itself.

    Args:
        address: of the process that it is connected to.

    Raises:
        InvalidArgumentError: names the field.
    """
    name = _printable(register.name, "name", shortest=1, longest=_NAME_LIMIT)
    if isinstance(register, claw.Register):
        offer = _of_document(register.capabilities)
    else:
        offer = _of_original(register.capabilities)
    return NodeRegistration(
        id=node_id_of(register.node_id),
        name=name,
        facade=FACADE,
        driver=DRIVER,
        capacity=offer.capacity,
        lease=LEASE,
        capabilities=DriverCapabilities(containers=True),
        external_id=str(register.node_id),
        address=address,
        labels=dict(offer.labels),
        max_workloads=offer.max_workloads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What a node has to give.

    Args:
        max_workloads: at a time; None is as many as fit.
    """

    capacity: Capacity
    labels: Mapping[str, str]
    max_workloads: int | None = None


def _of_document(has: claw.NodeCapabilities) -> _Offer:
    return _Offer(
        capacity=Capacity(cpu_milli=MAX_CPU_MILLICORES, memory_bytes=MAX_MEMORY_MB * MIB, gpus=tuple(_gpus(has))),
        labels=_runtimes(has.supported_runtimes, "capabilities.supported_runtimes"),
        max_workloads=has.max_concurrent_workloads,
    )


def _of_original(has: original.NodeCapabilities) -> _Offer:
    gpus = [
        Gpu(
            index=gpu.index,
            memory_bytes=_bytes(gpu.memory_mib, f"capabilities.gpus.{number}.memory_mib"),
            uuid=_printable(gpu.uuid, f"capabilities.gpus.{number}.uuid", longest=_TEXT_LIMIT),
            name=_printable(gpu.name, f"capabilities.gpus.{number}.name", longest=_TEXT_LIMIT),
        )
        for number, gpu in enumerate(has.gpus)
    ]
    for key, value in has.labels:
        _printable(key, "capabilities.labels", shortest=1, longest=_TEXT_LIMIT)
        _printable(value, "capabilities.labels", longest=_TEXT_LIMIT)
    return _Offer(
        capacity=Capacity(
            cpu_milli=has.cpu_cores * CPU_MILLI,
            memory_bytes=_bytes(has.memory_mib, "capabilities.memory_mib"),
            gpus=_sorted(gpus),
        ),
        labels=dict(has.labels) | _runtimes(has.runtimes, "capabilities.runtimes"),
    )


def _runtimes(runtimes: Sequence[str], field: str) -> dict[str, str]:
    if len(runtimes) > _RUNTIMES_LIMIT:
        raise InvalidArgumentError(f"must be at most {_RUNTIMES_LIMIT}", field=field)
    for runtime in runtimes:
        _printable(runtime, field, longest=_TEXT_LIMIT)
    return {f"{FACADE}/runtimes": ",".join(runtimes)} if runtimes else {}


def _gpus(has: claw.NodeCapabilities) -> Iterator[Gpu]:
    """Yields the GPUs that are listed, then as many like the last of them as the node says that it has besides."""
    bounded(has.gpu_count, "capabilities.gpu_count", high=MAX_GPUS_PER_NODE)
    listed = _sorted(
        [
            Gpu(
                index=gpu.index,
                memory_bytes=_bytes(gpu.vram_mb, f"capabilities.gpus.{number}.vram_mb"),
                name=_printable(gpu.name, f"capabilities.gpus.{number}.name", longest=_TEXT_LIMIT),
            )
            for number, gpu in enumerate(has.gpus)
        ]
    )
    missing = max(0, has.gpu_count - len(listed))
    total_bytes = _bytes(has.total_vram_mb, "capabilities.total_vram_mb")
    alike = listed[-1] if listed else Gpu(index=0, memory_bytes=total_bytes // max(1, missing))
    taken = {gpu.index for gpu in listed}
    free = [index for index in range(MAX_GPUS_PER_NODE) if index not in taken][:missing]
    more = [Gpu(index=index, memory_bytes=alike.memory_bytes, name=alike.name) for index in free]
    yield from sorted((*listed, *more), key=lambda gpu: gpu.index)


def _sorted(gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    if len(gpus) > MAX_GPUS_PER_NODE:
        raise InvalidArgumentError(f"must be at most {MAX_GPUS_PER_NODE}", field="capabilities.gpus")
    if len({gpu.index for gpu in gpus}) < len(gpus):
        raise InvalidArgumentError("must each have an index of their own", field="capabilities.gpus")
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))


def _bytes(mib: int, field: str) -> int:
    return bounded(mib, field, high=_MAX_MB) * MIB


def _printable(text: str, field: str, *, shortest: int = 0, longest: int) -> str:
    if not shortest <= len(text) <= longest or not text.isprintable():
        raise InvalidArgumentError(f"must have {shortest} to {longest} printable characters", field=field)
    return text


def reading_of(metrics: claw.Metrics | original.Metrics, registration: NodeRegistration, now: datetime) -> Telemetry:
    """Returns what a node reads of its GPUs. It is of now: the clocks of nodes are their own.

    What it reads of GPUs that it did not register with is left out, and more than there can be is cut.
    """
    sizes = {gpu.index: gpu.memory_bytes for gpu in registration.capacity.gpus}
    found = {
        reading.index: _gpu_reading(reading, sizes[reading.index])
        for reading in metrics.gpu_metrics
        if reading.index in sizes
    }
    return Telemetry(at=now, gpus=tuple(found[index] for index in sorted(found)))


def _gpu_reading(reading: claw.GpuMetricsProto | original.GpuMetricsProto, memory_bytes: int) -> GpuTelemetry:
    used_mib = reading.memory_used_mb if isinstance(reading, claw.GpuMetricsProto) else reading.memory_used_mib
    return GpuTelemetry(
        index=reading.index,
        utilization=min(100, reading.utilization_percent) / 100,
        memory_used_bytes=min(used_mib * MIB, memory_bytes),
        temperature_c=reading.temperature_celsius,
        power_w=None if reading.power_watts is None else float(reading.power_watts),
    )
