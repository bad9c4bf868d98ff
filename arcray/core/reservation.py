"""A reservation: slices of nodes that are held without a workload, until they are taken, released or expire.

What lives here: the noun and its arithmetic. What does not: when it changes (handlers/reservations).

A workload that names a reservation takes its allocation out of one slice, wholly or in part; the rest stays reserved
until the reservation ends. What was taken is the workload's and does not come back to the reservation. A reservation is
granted, kept and lost as a whole: when a node of it is lost it ends, because half of it is not what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from arcray.core.ids import AccountId, NodeId, ReservationId
from arcray.core.resources import Allocation, Demand, GpuShare

__all__ = ["Reservation", "ReservationState", "Slice", "carve", "is_empty", "parts_of"]


class ReservationState(StrEnum):
    """Where a reservation stands. All but the first are final and hold nothing."""

    ACTIVE = "active"
    CONSUMED = "consumed"  # workloads took all of it
    RELEASED = "released"  # given back, or a node of it was lost: its message says which
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What is held of one node."""

    node_id: NodeId
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A reservation, as it is now.

    Args:
        granted: the slices that it was given, one or more.
        slices: what is left of each, in the same order; all empty once it has ended.
        message: why it ended, for people; "" while it is active.
        request_digest: hash of the submitted body, compared when the id comes again.
    """

    id: ReservationId
    account: AccountId
    granted: tuple[Slice, ...]
    slices: tuple[Slice, ...]
    created_at: datetime
    expires_at: datetime
    state: ReservationState = ReservationState.ACTIVE
    ended_at: datetime | None = None
    message: str = ""
    request_digest: str = ""


def parts_of(demand: Demand, parts: int) -> tuple[Demand, ...]:
    """Returns a demand divided evenly; what does not divide goes to the first ones.

    A share of GPU memory is per device and stays as it is.
    """
    return tuple(
        replace(
            demand,
            cpu_milli=_part(demand.cpu_milli, parts, index),
            memory_bytes=_part(demand.memory_bytes, parts, index),
            disk_bytes=_part(demand.disk_bytes, parts, index),
            gpus=_part(demand.gpus, parts, index),
            gpu_memory_bytes=demand.gpu_memory_bytes if _part(demand.gpus, parts, index) else None,
        )
        for index in range(parts)
    )


def carve(held: Allocation, demand: Demand) -> tuple[Allocation, Allocation] | None:
    """Returns what a demand takes of a slice and what is left of it; None when it does not fit in.

    Whole devices come from whole ones. A share comes from the fullest device of the slice that has room; one that was
    held whole is shared from then on.
    """
    if (
        demand.cpu_milli > held.cpu_milli
        or demand.memory_bytes > held.memory_bytes
        or demand.disk_bytes > held.disk_bytes
    ):
        return None
    cut = _whole(held.gpus, demand.gpus) if demand.gpu_memory_bytes is None else _shares(held.gpus, demand)
    if cut is None:
        return None
    taken, left = cut
    return (
        Allocation(
            cpu_milli=demand.cpu_milli, memory_bytes=demand.memory_bytes, disk_bytes=demand.disk_bytes, gpus=taken
        ),
        Allocation(
            cpu_milli=held.cpu_milli - demand.cpu_milli,
            memory_bytes=held.memory_bytes - demand.memory_bytes,
            disk_bytes=held.disk_bytes - demand.disk_bytes,
            gpus=left,
        ),
    )


def is_empty(allocation: Allocation) -> bool:
    """Returns whether an allocation holds nothing."""
    return allocation == Allocation()


def _part(quantity: int, parts: int, index: int) -> int:
    return quantity // parts + (index < quantity % parts)


def _whole(held: tuple[GpuShare, ...], count: int) -> tuple[tuple[GpuShare, ...], tuple[GpuShare, ...]] | None:
    taken = tuple(share for share in held if share.whole)[:count]
    if len(taken) < count:
        return None
    return taken, tuple(share for share in held if share not in taken)


def _shares(held: tuple[GpuShare, ...], demand: Demand) -> tuple[tuple[GpuShare, ...], tuple[GpuShare, ...]] | None:
    wanted = demand.gpu_memory_bytes
    assert wanted is not None
    fitting = sorted((share.whole, share.memory_bytes, share.index) for share in held if share.memory_bytes >= wanted)
    chosen = {index for _, _, index in fitting[: demand.gpus]}
    if len(chosen) < demand.gpus:
        return None
    taken = tuple(GpuShare(index=index, memory_bytes=wanted, whole=False) for index in sorted(chosen))
    left = []
    for share in held:
        if share.index not in chosen:
            left.append(share)
        elif share.memory_bytes > wanted:
            left.append(GpuShare(index=share.index, memory_bytes=share.memory_bytes - wanted, whole=False))
    return taken, tuple(left)
