"""Queries: what may be asked. Answers are frozen snapshots, and never show what is not yet on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.model import Model
from arcray.core.node import NodeRegistration, NodeView
from arcray.core.placement.explain import Explanation, FilterRefusal
from arcray.core.quota import Excess, Quota, Usage
from arcray.core.resources import Allocation
from arcray.core.workload import PayloadKind, Phase, WorkloadSpec, WorkloadView

__all__ = [
    "Answer",
    "ClusterStats",
    "Displaced",
    "ExplainWorkload",
    "GetModel",
    "GetNode",
    "GetQuota",
    "GetStats",
    "GetWorkload",
    "InferenceStats",
    "ListModels",
    "ListNodes",
    "ListQuotas",
    "ListWorkloads",
    "ModelPage",
    "ModelView",
    "NodePage",
    "Query",
    "QuotaPage",
    "QuotaView",
    "Simulate",
    "SimulatedSubmission",
    "Simulation",
    "StartEstimate",
    "WaitsFor",
    "WorkloadExplanation",
    "WorkloadPage",
]

PAGE_LIMIT = 1000  # the largest page of any list


@dataclass(frozen=True, slots=True, kw_only=True)
class GetNode:
    """Answers ``NodeView``; NotFoundError."""

    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNodes:
    """Answers ``NodePage`` in order of joining.

    Filters of one protocol (an ArcNet status, a geozone) are applied by its facade, so it asks for whole pages.

    Args:
        facade: only nodes that joined by it; "" shows all.
    """

    limit: int = 100
    offset: int = 0
    facade: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetWorkload:
    """Answers ``WorkloadView``; NotFoundError.

    Args:
        account: whose workloads may be seen; None sees all.
    """

    workload_id: WorkloadId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListWorkloads:
    """Answers ``WorkloadPage``, newest first; finished ones come from the rows.

    Args:
        kinds: payload kinds to show; empty shows all but inference.
        phases: phases to show; empty shows all.
        dead: only dead letters.
    """

    account: AccountId | None = None
    kinds: frozenset[PayloadKind] = frozenset()
    phases: frozenset[Phase] = frozenset()
    node_id: NodeId | None = None
    dead: bool = False
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainWorkload:
    """Answers ``WorkloadExplanation``: what a workload waits for, and for how long; NotFoundError."""

    workload_id: WorkloadId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetModel:
    """Answers ``ModelView``; NotFoundError."""

    model_id: ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ListModels:
    """Answers ``ModelPage`` sorted by id."""

    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStats:
    """Answers ``ClusterStats``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetQuota:
    """Answers ``QuotaView``; of an account that nobody has heard of, the default."""

    account: AccountId


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuotas:
    """Answers ``QuotaPage`` sorted by account: those with a quota of their own and those that hold something."""

    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulate:
    """Answers ``Simulation``: what would happen if, on a copy of the live state. Changes nothing.

    Raises ResourceExhaustedError while another one runs, DeadlineExceededError when it takes too long.

    Args:
        add_nodes: machines that join.
        remove_nodes: machines that leave at once.
        drain_nodes: machines that are drained, their work stopping as soon as it is asked to.
        submit: workloads that are sent then, in order.
        account: whose workloads the answer may name; None names all.
    """

    add_nodes: tuple[NodeRegistration, ...] = ()
    remove_nodes: tuple[NodeId, ...] = ()
    drain_nodes: tuple[NodeId, ...] = ()
    submit: tuple[WorkloadSpec, ...] = ()
    account: AccountId | None = None


Query: TypeAlias = (
    GetNode
    | ListNodes
    | GetWorkload
    | ListWorkloads
    | ExplainWorkload
    | GetModel
    | ListModels
    | GetStats
    | GetQuota
    | ListQuotas
    | Simulate
)


class WaitsFor(StrEnum):
    """What a workload waits for."""

    NOTHING = "nothing"  # it is placed, or has ended
    BACK_OFF = "backOff"  # the wait before a restart
    QUOTA = "quota"  # its account holds all that it may
    PLACE = "place"  # a node with room
    SLOT = "slot"  # a copy of its model that takes another request
    TURN = "turn"  # a node has room; its turn in the queue


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEstimate:
    """When a workload may start, going by how long such work has taken lately.

    Args:
        basis: what it goes by, for people.
    """

    earliest: datetime
    latest: datetime
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadExplanation:
    """What a workload waits for.

    Args:
        at: when this was said.
        placement: how it stands with every node, quota and queue aside.
        excesses: limits of its account's quota that are in its way.
        ahead: how many workloads are candidates before it.
        first_ahead: the first few of them that the asker may see.
        estimate: when it may start; None while no history says.
    """

    workload_id: WorkloadId
    account: AccountId
    at: datetime
    phase: Phase
    node_id: NodeId | None
    waits_for: WaitsFor
    placement: Explanation
    not_before: datetime | None = None
    excesses: tuple[Excess, ...] = ()
    ahead: int = 0
    first_ahead: tuple[WorkloadId, ...] = ()
    estimate: StartEstimate | None = None

    @property
    def refusals(self) -> tuple[FilterRefusal, ...]:
        """The filters and what they refused. The quota is the first of them: where it refuses, no node is looked at."""
        if not self.excesses:
            return self.placement.refusals
        why = ", ".join(map(str, self.excesses))
        return (FilterRefusal(filter="quota", nodes=self.placement.nodes, reason=f"account {self.account} {why}"),)

    @property
    def suggestion(self) -> str:
        """The smallest change that would let it start; "" when none would, or none is needed."""
        if self.waits_for is not WaitsFor.QUOTA:
            return self.placement.suggestion
        return f"account {self.account} must give back what is over its quota, or get a larger one"

    def sentence(self) -> str:
        """Returns all of it in one sentence."""
        match self.waits_for:
            case WaitsFor.NOTHING:
                where = f" on node {self.node_id}" if self.node_id is not None else ""
                return f"it waits for nothing: it is {self.phase}{where}"
            case WaitsFor.BACK_OFF:
                assert self.not_before is not None
                head = f"waits {max(0.0, (self.not_before - self.at).total_seconds()):.0f} s before it starts again"
            case WaitsFor.QUOTA:
                head = f"waits for its quota: {self.refusals[0].reason}"
            case WaitsFor.TURN | WaitsFor.PLACE | WaitsFor.SLOT:
                head = self.placement.sentence()
        ahead = f"; {self.ahead} ahead of it" if self.ahead else ""
        if self.estimate is None:
            return f"{head}{ahead}; when it starts is unknown"
        first = max(0.0, (self.estimate.earliest - self.at).total_seconds())
        last = max(0.0, (self.estimate.latest - self.at).total_seconds())
        return f"{head}{ahead}; starts in {first:.0f} to {last:.0f} s, because {self.estimate.basis}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaView:
    """What an account may hold, what it holds, and what of its waits.

    Args:
        own: whether an operator gave it this quota; else it is the default.
    """

    account: AccountId
    quota: Quota
    own: bool
    usage: Usage
    pending: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaPage:
    """One page; ``total`` counts all."""

    quotas: tuple[QuotaView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSubmission:
    """What would become of one workload.

    Args:
        node_id: where it would be placed; None when it would wait or be refused.
        allocation: what it would get there.
        explanation: what it would wait for.
        refusal: why it would be refused; "" when it would be accepted.
    """

    spec: WorkloadSpec
    node_id: NodeId | None = None
    allocation: Allocation | None = None
    explanation: WorkloadExplanation | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Displaced:
    """What would become of work that a removed or drained node has.

    Args:
        node_id: where it is now.
        moved_to: where it would go on; None when it would not.
        phase: what it would be then.
    """

    workload_id: WorkloadId
    name: str
    node_id: NodeId
    moved_to: NodeId | None
    phase: Phase
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What would happen.

    Args:
        submitted: as they were given.
        displaced: those that the asker may see; ``displaced_total`` counts all.
        started: pending work that would start besides, as far as the asker may see it; ``started_total`` counts all.
        waiting: workloads that would wait for a place then.
        left_out: pending workloads, the last in the queue, that were not looked at because there are too many.
    """

    submitted: tuple[SimulatedSubmission, ...]
    displaced: tuple[Displaced, ...]
    displaced_total: int
    started: tuple[WorkloadId, ...]
    started_total: int
    waiting: int
    left_out: int
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePage:
    """One page; ``total`` counts all that match."""

    nodes: tuple[NodeView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPage:
    """One page; ``total`` counts all that match."""

    workloads: tuple[WorkloadView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model and its copies.

    Args:
        servers: live workloads that keep it loaded.
        ready_on: nodes that answer for it now, sorted.
    """

    model: Model
    servers: tuple[WorkloadView, ...]
    ready_on: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """One page; ``total`` counts all."""

    models: tuple[ModelView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceStats:
    """Inference since the scheduler started; latencies over the newest 4,096 completions, None before the first."""

    dispatched: int
    completed: int
    failed: int
    rejected: int
    in_flight: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStats:
    """Counts of everything alive.

    Args:
        workloads: live workloads by phase; inference requests are counted in ``inference`` instead.
    """

    nodes: tuple[NodeView, ...]
    workloads: dict[Phase, int]
    inference: InferenceStats
    uptime_s: float


Answer: TypeAlias = (
    NodeView
    | NodePage
    | WorkloadView
    | WorkloadPage
    | WorkloadExplanation
    | ModelView
    | ModelPage
    | ClusterStats
    | QuotaView
    | QuotaPage
    | Simulation
)
