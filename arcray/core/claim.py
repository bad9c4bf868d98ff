"""Claims and evictions: the two ends of making room for one workload by ending another.

A *claim* is what a preemptor holds while its victims end: a place on one node that nobody else is given. An *eviction*
is why a workload was asked to end although nobody wants its end: another attempt follows, or its gang has failed.

Invariant: a claim and what its victims still hold never come to more than the node has. A victim's slice stays the
victim's until its end is reported; only then does it become part of what the claim keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from arcray.core.ids import NodeId, WorkloadId
from arcray.core.resources import Allocation, GpuShare

__all__ = ["Claim", "Eviction", "kept_free"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A place that a pending workload gets once the victims have ended.

    Args:
        allocation: the slice it will need; every part of it is free or held by a victim.
        victims: the workloads that were preempted for it, sorted; some may have ended.
    """

    node_id: NodeId
    allocation: Allocation
    victims: tuple[WorkloadId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Why the cluster asked a workload to end.

    Args:
        by: the workload for which it was preempted; None when its gang was stopped.
        restart: whether the next attempt counts against the restart policy.
        fails: no attempt follows, it ends as failed: its gang has failed.
    """

    reason: str
    by: WorkloadId | None = None
    restart: bool = False
    fails: bool = False


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
