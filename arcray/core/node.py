"""A node: one machine of the pool, whatever protocol it joined by.

What lives here: what a node is and how it is described. What does not: where it is reached (drivers), and what is
allocated on it (placement). ``Node`` is owned and mutated by ``ClusterState.apply`` alone; everyone else sees
``NodeView``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from arcray.core.ids import AccountId, NodeId
from arcray.core.model import ModelFormat, ModelSlots
from arcray.core.resources import Capacity

__all__ = [
    "Drain",
    "DriverCapabilities",
    "EnergySource",
    "GpuTelemetry",
    "Health",
    "LeaseTerms",
    "Location",
    "Node",
    "NodeRegistration",
    "NodeView",
    "Telemetry",
]


class Health(StrEnum):
    """What the lease says of a node."""

    HEALTHY = "healthy"  # heard within its terms
    UNHEALTHY = "unhealthy"  # silent too long for new work; its work is left alone
    LOST = "lost"  # silent so long that its work was given up
    GONE = "gone"  # it said goodbye


class EnergySource(StrEnum):
    """What powers a machine."""

    COGEN = "cogen"
    GRID = "grid"
    BATTERY = "battery"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """How long a node may be silent. Comes from the descriptor of the protocol it joined by."""

    unhealthy_after_s: float
    lost_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a machine stands.

    Args:
        geohash: 6 characters.
        geozone: name of its zone, "UNKNOWN" where none is near.
        longitude: degrees.
        latitude: degrees.
    """

    geohash: str = "s00000"
    geozone: str = "UNKNOWN"
    longitude: float = 0.0
    latitude: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverCapabilities:
    """What a node can be asked to do, as data: an ordinary placement filter.

    Args:
        containers: it runs container images.
        programs: it runs programs natively, in a sandbox of its own.
        models: formats that it can load as a model server.
        inference: it answers inference requests for the models it reports.
        runner_image: image that can run a program as a container; "" when there is none.
        sandbox: what isolates a native program: "bubblewrap", "user" (own user and limits) or "none".
        disk_limit: "quota" (the engine enforces it), "watched" (the sampler stops what exceeds it) or "none".
        admits_by_utilization: it has no slot control of its own, so a busy one is left alone (see routing).
    """

    containers: bool = False
    programs: bool = False
    models: frozenset[ModelFormat] = frozenset()
    inference: bool = False
    runner_image: str = ""
    sandbox: str = "none"
    disk_limit: str = "none"
    admits_by_utilization: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTelemetry:
    """One GPU's reading: utilization 0.0 to 1.0, temperature in Celsius, power in watts (None: not reported)."""

    index: int
    utilization: float
    memory_used_bytes: int
    temperature_c: int | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One reading of a machine. Volatile: never journalled.

    Args:
        cpu_utilization: 0.0 to 1.0 over all cores.
        battery_level: 0.0 to 1.0; 1.0 for machines without a battery.
        gpus: one entry per device, sorted by index.
        at: when the machine read it.
        latency_ms: how long the machine took to answer when it was asked last; None where its protocol does not ask.
    """

    at: datetime
    cpu_utilization: float = 0.0
    memory_used_bytes: int = 0
    disk_used_bytes: int = 0
    energy_source: EnergySource = EnergySource.GRID
    battery_level: float = 1.0
    gpus: tuple[GpuTelemetry, ...] = ()
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRegistration:
    """What a machine says of itself when it attaches.

    Args:
        id: core id; persisted by the machine, or derived from its foreign name.
        name: shown to people.
        facade: name of the protocol it joined by; "ray" for the cluster's own nodes.
        external_id: its id on that wire; "" when that is the core id.
        driver: name of the NodeDriver that reaches it.
        address: where that driver finds it; opaque to core.
        hostname: shown to people.
        owner: account that is paid for what runs on it; None is the pool's own.
        tier: how far behind others it is chosen, where several fit; 0 goes first.
        max_workloads: containers, programs and copies of models that it takes at a time, reserved slices counted; None
            is as many as fit.
    """

    id: NodeId
    name: str
    facade: str
    driver: str
    capacity: Capacity
    lease: LeaseTerms
    capabilities: DriverCapabilities = DriverCapabilities()
    external_id: str = ""
    address: str = ""
    hostname: str = ""
    location: Location = Location()
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: AccountId | None = None
    tier: int = 0
    max_workloads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Moving the old work of a cordoned node, or of some of its GPUs, away.

    Args:
        gpus: only work on these; empty means the whole node.
        deadline: when work that cannot be moved is stopped; None waits for its end however long it takes.
        grace_s: time between the polite and the certain signal.
        done_at: when the last of the work had gone; None while some is left.
    """

    started_at: datetime
    gpus: frozenset[int] = frozenset()
    deadline: datetime | None = None
    grace_s: float = 30.0
    done_at: datetime | None = None


@dataclass(slots=True, kw_only=True)
class Node:
    """A node's state. Only ``ClusterState.apply`` changes it.

    Args:
        epoch: grows by one with every attachment; reports of an older epoch are refused.
        last_seen: when anything of its current attachment was last heard.
        cordoned, cordoned_gpus: the whole of it, or those indices, take no new work.
        relabelled: labels that an operator set over its own, None for those removed; kept when it attaches again.
    """

    registration: NodeRegistration
    epoch: int
    health: Health
    joined_at: datetime
    last_seen: datetime
    cordoned: bool = False
    cordoned_gpus: frozenset[int] = frozenset()
    drain: Drain | None = None
    relabelled: Mapping[str, str | None] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    models: tuple[ModelSlots, ...] = ()

    @property
    def id(self) -> NodeId:
        """Its core id."""
        return self.registration.id

    @property
    def draining(self) -> bool:
        """Whether the whole of it is being drained, or has been."""
        return self.drain is not None and not self.drain.gpus

    @property
    def open(self) -> bool:
        """Whether its operator lets it take new work."""
        return not self.cordoned and not self.draining

    @property
    def schedulable(self) -> bool:
        """Whether it takes new work."""
        return self.health is Health.HEALTHY and self.open

    @property
    def labels(self) -> Mapping[str, str]:
        """What selectors match: what the machine says of itself, with the operator's changes laid over it."""
        if not self.relabelled:
            return self.registration.labels
        merged = {**self.registration.labels, **self.relabelled}
        return {key: value for key, value in merged.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What a query answers about a node; a snapshot.

    Args:
        workloads: non-terminal workloads placed on it, inference requests in flight included.
        cpu_milli_free: not allocated.
        memory_bytes_free: not allocated.
        draining: the whole of it is being drained, or has been (``drain.done_at``).
        labels: with the operator's changes.
    """

    registration: NodeRegistration
    epoch: int
    health: Health
    joined_at: datetime
    last_seen: datetime
    cordoned: bool
    draining: bool
    telemetry: Telemetry | None
    models: tuple[ModelSlots, ...]
    workloads: int
    cpu_milli_free: int
    memory_bytes_free: int
    cordoned_gpus: frozenset[int] = frozenset()
    drain: Drain | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
