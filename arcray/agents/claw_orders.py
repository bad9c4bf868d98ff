"""A claw gateway's words as orders to a node, and a machine in claw's words. No I/O.

What lives here: capabilities, readings, and which slice of the machine a workload gets. A gateway of arcray's names
the GPUs that it means; where a gateway does not, they are chosen here. What does not fit is refused by name, before
anything is begun.

Source: claw-proto API Reference, "NodeCapabilities", "GpuMetricsProto" and "Workload Specification".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from arcray import claw_proto as claw
from arcray.core.errors import ResourceExhaustedError
from arcray.core.ids import WorkloadId
from arcray.core.node import GpuTelemetry, NodeRegistration, Telemetry
from arcray.core.orders import StartWorkload
from arcray.core.quantity import MIB
from arcray.core.resources import Allocation, Capacity, Demand, Gpu, GpuShare
from arcray.core.workload import Container, PortMapping
from arcray.facades.claw.specs import container_of, demand_of
from arcray.node.gpu import GpuDetails

__all__ = ["allocate", "capabilities_of", "metrics_of", "order_of", "published"]

_RUNTIMES: Final = ("docker",)
_U32: Final = 2**32 - 1
_NO_DETAILS: Final = GpuDetails()


def capabilities_of(
    registration: NodeRegistration, details: Mapping[int, GpuDetails], *, max_workloads: int
) -> claw.NodeCapabilities:
    """Returns what this machine has. One without a container engine takes no work, and says so.

    Args:
        details: what the driver tells of GPUs besides, by index.
    """
    gpus = registration.capacity.gpus
    containers = registration.capabilities.containers
    return claw.NodeCapabilities(
        total_vram_mb=sum(gpu.memory_bytes // MIB for gpu in gpus),
        gpu_count=len(gpus),
        gpus=tuple(
            claw.GpuCapability(
                index=gpu.index,
                name=gpu.name,
                vram_mb=gpu.memory_bytes // MIB,
                compute_capability=details.get(gpu.index, _NO_DETAILS).compute_capability,
                driver_version=details.get(gpu.index, _NO_DETAILS).driver_version,
            )
            for gpu in gpus
        ),
        max_concurrent_workloads=max_workloads if containers else 0,
        supported_runtimes=_RUNTIMES if containers else (),
    )


def metrics_of(
    node_id: claw.NodeId, telemetry: Telemetry, capacity: Capacity, now: claw.Timestamp
) -> claw.Metrics | None:
    """Returns a reading of the GPUs; None where there are none, of which the message has nothing to tell.

    What a device does not tell (temperature, power) is 0: the message has no place for not knowing.
    """
    sizes = {gpu.index: gpu.memory_bytes for gpu in capacity.gpus}
    readings = tuple(_metric(gpu, sizes[gpu.index]) for gpu in telemetry.gpus if gpu.index in sizes)
    return claw.Metrics(node_id=node_id, gpu_metrics=readings, timestamp=now) if readings else None


def _metric(gpu: GpuTelemetry, memory_bytes: int) -> claw.GpuMetricsProto:
    return claw.GpuMetricsProto(
        index=gpu.index,
        utilization_percent=max(0, min(100, round(gpu.utilization * 100))),
        memory_used_mb=gpu.memory_used_bytes // MIB,
        memory_total_mb=memory_bytes // MIB,
        temperature_celsius=max(0, min(gpu.temperature_c or 0, _U32)),
        power_watts=max(0, min(round(gpu.power_w or 0), _U32)),
    )


def order_of(
    workload: claw.Workload, attempt: int, allocation: Allocation, ports: Sequence[PortMapping]
) -> StartWorkload:
    """Returns the order to start one attempt of what was deployed.

    Args:
        ports: as ``published`` says.

    Raises:
        InvalidArgumentError: it breaks a rule of the document; names the field.
        UnsupportedError: it mounts what is no directory or file of the host.
    """
    container = container_of(workload.spec)
    workload_id = WorkloadId(workload.id)
    return StartWorkload(
        workload_id=workload_id,
        attempt=attempt,
        payload=Container(
            image=container.image,
            command=container.command,
            args=container.args,
            env=container.env,
            ports=tuple(ports),
            volumes=container.volumes,
        ),
        demand=demand_of(workload.spec),
        allocation=allocation,
        owner=workload_id,  # nobody says whose it is, so none sees another's
        name=workload.name,
    )


def published(ports: Sequence[int], is_free: Callable[[int], bool]) -> tuple[PortMapping, ...]:
    """Returns where a container's ports are published: at the same ones of the host, as far as they are free.

    The wire has no word for a port of the host, so that callers find what has the same; the engine chooses the others.
    """
    return tuple(
        PortMapping(container_port=port, host_port=port if is_free(port) else None) for port in dict.fromkeys(ports)
    )


def allocate(demand: Demand, named: Sequence[int], capacity: Capacity, held: Sequence[Allocation]) -> Allocation:
    """Returns the slice that a workload gets.

    Args:
        named: indices of the GPUs that the gateway means; () leaves the choice to this machine.
        held: by what runs here.

    Raises:
        ResourceExhaustedError: there is no room; names what is short, in the document's words.
    """
    cpu_milli = capacity.cpu_milli - sum(each.cpu_milli for each in held)
    memory_bytes = capacity.memory_bytes - sum(each.memory_bytes for each in held)
    if demand.cpu_milli > cpu_milli:
        raise ResourceExhaustedError(f"{max(0, cpu_milli)} are free on this node", field="cpu_millicores")
    if demand.memory_bytes > memory_bytes:
        raise ResourceExhaustedError(f"{max(0, memory_bytes) // MIB} are free on this node", field="memory_mb")
    return Allocation(
        cpu_milli=demand.cpu_milli,
        memory_bytes=demand.memory_bytes,
        gpus=_shares(demand, named, capacity.gpus, held) if demand.gpus else (),
    )


def _shares(
    demand: Demand, named: Sequence[int], gpus: Sequence[Gpu], held: Sequence[Allocation]
) -> tuple[GpuShare, ...]:
    if named:
        chosen = [gpu for gpu in gpus if gpu.index in named]
        if len(chosen) != demand.gpus:
            raise ResourceExhaustedError(f"must name {demand.gpus} GPUs of this node", field="gpu_ids")
    else:
        taken = [share for allocation in held for share in allocation.gpus]
        room = {gpu.index: _room(gpu, demand, [share for share in taken if share.index == gpu.index]) for gpu in gpus}
        # The fullest that still has room goes first, so that whole ones stay free.
        fitting = sorted((left, index) for index, left in room.items() if left is not None)
        if len(fitting) < demand.gpus:
            raise ResourceExhaustedError(f"GPU allocation failed: {len(fitting)} are free", field="gpu_count")
        indices = {index for _, index in fitting[: demand.gpus]}
        chosen = [gpu for gpu in gpus if gpu.index in indices]
    wanted = demand.gpu_memory_bytes
    return tuple(
        GpuShare(
            index=gpu.index,
            memory_bytes=gpu.memory_bytes if wanted is None else wanted,
            whole=wanted is None,
        )
        for gpu in chosen
    )


def _room(gpu: Gpu, demand: Demand, taken: Sequence[GpuShare]) -> int | None:
    """Returns what is left of a GPU's memory once the demand has its part of it; None where it does not fit."""
    if demand.gpu_memory_bytes is None:
        return None if taken else 0
    if any(share.whole for share in taken):
        return None
    left = gpu.memory_bytes - sum(share.memory_bytes for share in taken) - demand.gpu_memory_bytes
    return left if left >= 0 else None
