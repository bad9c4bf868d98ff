"""What goes into placement and what comes out: values only.

Placement knows neither workloads nor protocols: a node is a capacity with tokens and labels, a request is a demand
with conditions. The handlers translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from arcray.core.ids import NodeId
from arcray.core.labels import Selector
from arcray.core.quantity import bounded
from arcray.core.resources import NO_DEMAND, Allocation, Capacity, Demand

__all__ = ["Free", "Placement", "PlacementNode", "PlacementRequest"]

_MAX_TIER: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementNode:
    """A machine as placement sees it.

    Args:
        features: what it can be asked to run, as ``lowering.features`` names it.
        labels: what selectors match.
        schedulable: whether its operator lets it take new work; what it holds stays counted either way.
        attached: whether it is there and heard; no change of the operator's helps where it is not.
        closed_gpus: indices of devices that take nothing new.
        tier: how far behind others it is taken, where several fit.
        max_held: slices that may be held on it at a time; None is as many as fit.

    Raises:
        InvalidArgumentError: a capacity, the tier or the number of slices is negative or too large; names it.
    """

    id: NodeId
    capacity: Capacity
    features: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True
    attached: bool = True
    closed_gpus: frozenset[int] = frozenset()
    tier: int = 0
    max_held: int | None = None

    def __post_init__(self) -> None:
        bounded(self.tier, "tier", high=_MAX_TIER)
        if self.max_held is not None:
            bounded(self.max_held, "max_workloads")
        bounded(self.capacity.cpu_milli, "capacity.cpu")
        bounded(self.capacity.memory_bytes, "capacity.memory")
        bounded(self.capacity.disk_bytes, "capacity.disk")
        for gpu in self.capacity.gpus:
            bounded(gpu.memory_bytes, "capacity.gpus.memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """One demand and where it may go.

    Args:
        wants: the node offers at least one of these; empty wants nothing.
        selector: terms that the node's labels must satisfy, all of them.
        node_id: the only node allowed; None allows all.
        avoid: nodes that are not to be used, for example because they refused it before.
    """

    demand: Demand = NO_DEMAND
    wants: frozenset[str] = frozenset()
    selector: Selector = ()
    node_id: NodeId | None = None
    avoid: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a demand goes and exactly what it gets there. Nothing is held until it is allocated."""

    node_id: NodeId
    allocation: Allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """What a node has left. Negative where its capacity shrank under what is allocated.

    Args:
        gpus: devices that nobody uses; minus the number of overcommitted devices when there are any.
        overcommitted_gpus: indices of devices that hold more than they have.
    """

    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    gpus: int
    overcommitted_gpus: frozenset[int] = frozenset()
