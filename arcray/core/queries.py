"""Queries: what may be asked. Answers are frozen snapshots, and never show what is not yet on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from arcray.core.audit_log import AuditPage, ReadAudit
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import AccountId, ModelId, NodeId, ReservationId, WorkloadId
from arcray.core.keys import KeyView
from arcray.core.ledger import AccountView, Entry, Login, Posting
from arcray.core.model import Model
from arcray.core.node import NodeView
from arcray.core.queues import QueueReading
from arcray.core.quota import Quota, Usage
from arcray.core.reservation import Reservation
from arcray.core.what_if import Simulate, Simulation
from arcray.core.workload import PayloadKind, Phase, WorkloadView

__all__ = [
    "AccountPage",
    "Answer",
    "ClusterStats",
    "ExplainWorkload",
    "FindKey",
    "FindLogin",
    "GetAccount",
    "GetModel",
    "GetNode",
    "GetQueues",
    "GetQuota",
    "GetReservation",
    "GetStatement",
    "GetStats",
    "GetWorkload",
    "InferenceStats",
    "KeyPage",
    "ListAccounts",
    "ListKeys",
    "ListModels",
    "ListNodes",
    "ListQuotas",
    "ListReservations",
    "ListWorkloads",
    "ModelPage",
    "ModelView",
    "NodePage",
    "Query",
    "Queues",
    "QuotaPage",
    "QuotaView",
    "ReservationPage",
    "Statement",
    "StatementLine",
    "WorkloadCursor",
    "WorkloadPage",
]

PAGE_LIMIT = 1000  # the largest page of any list
OFFSET_LIMIT = 10_000  # the largest offset into a list that may be long; a cursor goes on from there


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
class WorkloadCursor:
    """Where a list goes on: after the workload that was made then and has this id, newest first."""

    created_at: datetime
    id: WorkloadId


@dataclass(frozen=True, slots=True, kw_only=True)
class ListWorkloads:
    """Answers ``WorkloadPage``, newest first; finished ones come from the rows.

    Args:
        after: continues another page, at the same cost however far it is from the first; ``offset`` is 0 then.
        kinds: payload kinds to show; empty shows all but inference.
        phases: phases to show; empty shows all.
        dead: only dead letters.
        facade: only work that came by this protocol; "" shows all.
    """

    account: AccountId | None = None
    kinds: frozenset[PayloadKind] = frozenset()
    phases: frozenset[Phase] = frozenset()
    node_id: NodeId | None = None
    dead: bool = False
    facade: str = ""
    limit: int = 100
    offset: int = 0
    after: WorkloadCursor | None = None


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
class GetReservation:
    """Answers ``Reservation``; NotFoundError.

    Args:
        account: whose reservations may be seen; None sees all.
    """

    reservation_id: ReservationId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListReservations:
    """Answers ``ReservationPage``, newest first: all active ones and the newest that ended."""

    account: AccountId | None = None
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStats:
    """Answers ``ClusterStats``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetQueues:
    """Answers ``Queues`` at once, also while nothing can be committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetAccount:
    """Answers ``AccountView``; NotFoundError.

    Args:
        account: the only one that may be seen; None sees all.
    """

    account_id: AccountId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAccounts:
    """Answers ``AccountPage`` in order of opening."""

    account: AccountId | None = None
    limit: int = 100
    offset: int = 0


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
class GetStatement:
    """Answers ``Statement``, newest first, from the rows; NotFoundError.

    Args:
        before: cursor, the ``next`` of an earlier answer; None begins with the newest.
    """

    account_id: AccountId
    account: AccountId | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FindKey:
    """Answers ``KeyView`` of the key whose secret has this SHA-256; NotFoundError."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindLogin:
    """Answers ``Login`` of an account whose owner logs in; NotFoundError."""

    account_id: AccountId


@dataclass(frozen=True, slots=True, kw_only=True)
class ListKeys:
    """Answers ``KeyPage`` in order of issue."""

    account: AccountId | None = None
    limit: int = 100
    offset: int = 0


Query: TypeAlias = (
    GetNode
    | ListNodes
    | GetWorkload
    | ListWorkloads
    | ReadAudit
    | ExplainWorkload
    | GetModel
    | ListModels
    | GetStats
    | GetAccount
    | ListAccounts
    | GetStatement
    | FindKey
    | FindLogin
    | ListKeys
    | GetReservation
    | ListReservations
    | GetQueues
    | GetQuota
    | ListQuotas
    | Simulate
)


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
class NodePage:
    """One page; ``total`` counts all that match."""

    nodes: tuple[NodeView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPage:
    """One page.

    Args:
        total: counts all that match; None on a page that continues another, whose reader knows.
        next: continues after this page; None when it is the last.
    """

    workloads: tuple[WorkloadView, ...]
    total: int | None
    next: WorkloadCursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model and its copies.

    Args:
        servers: live workloads that keep it loaded, those that are ending included.
        lasting: how many of them nobody has asked to end.
        ready_on: nodes that answer for it now, sorted.
    """

    model: Model
    servers: tuple[WorkloadView, ...]
    lasting: int
    ready_on: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """One page; ``total`` counts all."""

    models: tuple[ModelView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationPage:
    """One page; ``total`` counts all that match."""

    reservations: tuple[Reservation, ...]
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
        imbalance: sum over all books of the ledger; anything but 0 is our own fault.
    """

    nodes: tuple[NodeView, ...]
    workloads: dict[Phase, int]
    inference: InferenceStats
    uptime_s: float
    imbalance: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPage:
    """One page; ``total`` counts all."""

    accounts: tuple[AccountView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """A posting of an account, and the entry that it is part of.

    Args:
        seq: its place among all postings; grows with time.
        entry: without its other postings, which are other accounts' business.
    """

    seq: int
    entry: Entry
    posting: Posting


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Postings of an account, newest first; ``next`` is the cursor of those before them, None at the beginning."""

    lines: tuple[StatementLine, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """One page; ``total`` counts all."""

    keys: tuple[KeyView, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """How long queues are.

    Args:
        readings: each name at most once.
        refusal: why writes are refused now; "" while they are taken.
    """

    readings: tuple[QueueReading, ...]
    refusal: str = ""


Answer: TypeAlias = (
    NodeView
    | NodePage
    | WorkloadView
    | WorkloadPage
    | AuditPage
    | WorkloadExplanation
    | ModelView
    | ModelPage
    | ClusterStats
    | AccountView
    | AccountPage
    | Statement
    | KeyView
    | KeyPage
    | Login
    | Reservation
    | ReservationPage
    | Queues
    | QuotaView
    | QuotaPage
    | Simulation
)
