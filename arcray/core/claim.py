"""Claims and evictions: the two ends of making room for one workload by ending another.

A *claim* is what a preemptor holds while its victims end: a place on one node that nobody else is given. An *eviction*
is why the cluster, and not its owner, asked an attempt to end: another one follows, or the workload has failed.

Invariant: a claim and what its victims still hold never come to more than the node has. A victim's slice stays the
victim's until its end is reported; only then does it become part of what the claim keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from arcray.core.ids import NodeId, WorkloadId
from arcray.core.resources import Allocation, GpuShare

__all__ = ["Cause", "Claim", "Eviction", "kept_free"]


class Cause(StrEnum):
    """What led to an eviction."""

    PREEMPTED = "preempted"  # its place is wanted for work of a higher priority
    GANG = "gang"  # its gang cannot go on as it is
    DRAIN = "drain"  # its node, or one of its GPUs, is drained
    OVERTIME = "overtime"  # it ran longer than it may, and its node did not end it
    UNDELIVERED = "undelivered"  # its node could not be told to start it, and may have heard of it all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A place that a pending workload gets once the victims have ended.

    Args:
        allocation: the slice it will need; every part of it is free or held by a victim.
        victims: the workloads that were preempted for it, sorted; some may have ended.
        until: when it is given up if they have not all ended; None in rows of before there was a limit.
    """

    node_id: NodeId
    allocation: Allocation
    victims: tuple[WorkloadId, ...]
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Why the cluster asked a workload to end.

    Args:
        by: the workload for which it was preempted; None where it was not.
        restart: whether the next attempt counts against the restart policy.
        fails: no attempt follows, it ends as failed. Of work that ran too long the restart policy decides at its end.
    """

    reason: str
    by: WorkloadId | None = None
    restart: bool = False
    fails: bool = False
    cause: Cause = Cause.GANG  # what it was before there were others, in rows of then


def kept_free(wanted: Allocation, held: Iterable[Allocation]) -> Allocation:
    """Returns what must be booked now so that ``wanted`` is free once ``held`` has been given back.

    On a GPU that is wanted whole and is partly given back already, the part is kept as shared memory: whole and shared
    at once is no state of a device.
    """
    held = tuple(held)
    shares = []
    for share in wanted.gpus:
        taken = [other for allocation in held for other in allocation.gpus if other.index == share.index]
        if not taken:
            shares.append(share)
        elif not any(other.whole for other in taken):
            missing = share.memory_bytes - sum(other.memory_bytes for other in taken)
            if missing > 0:
                shares.append(GpuShare(index=share.index, memory_bytes=missing, whole=False))
    return Allocation(
        cpu_milli=max(0, wanted.cpu_milli - sum(a.cpu_milli for a in held)),
        memory_bytes=max(0, wanted.memory_bytes - sum(a.memory_bytes for a in held)),
        disk_bytes=max(0, wanted.disk_bytes - sum(a.disk_bytes for a in held)),
        gpus=tuple(shares),
    )
