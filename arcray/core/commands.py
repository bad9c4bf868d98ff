"""Commands: everything that may change the cluster, in the imperative. Values; ``Cluster.handle`` decides.

Ids, times of origin and digests are made by the sender, so that a command can be sent again and mean the same.
Reports of nodes are commands too: they carry the epoch of the attachment and the attempt of the workload, and are
refused when either is old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from arcray.core.account_commands import (
    IssueCredits,
    IssueKey,
    OpenAccount,
    OpenLogin,
    Posted,
    ReportKeyUse,
    RevokeKey,
    SetSpendingLimit,
    TransferCredits,
)
from arcray.core.gang import Layout
from arcray.core.ids import AccountId, ModelId, NodeId, ReservationId, WorkloadId
from arcray.core.keys import KeyView
from arcray.core.labels import Selector
from arcray.core.ledger import AccountView
from arcray.core.model import Model, ModelSlots
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.quota import Quota
from arcray.core.reservation import Reservation
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Phase, PortMapping, Result, WorkloadSpec, WorkloadView

__all__ = [
    "AttachNode",
    "Attached",
    "Command",
    "DetachNode",
    "DiscardWorkload",
    "DrainNode",
    "Heard",
    "IssueCredits",
    "IssueKey",
    "LabelNode",
    "OpenAccount",
    "OpenLogin",
    "Posted",
    "RegisterModel",
    "ReleaseReservation",
    "RemoveModel",
    "Reply",
    "ReportEnd",
    "ReportKeyUse",
    "ReportModels",
    "ReportPhase",
    "ReportTelemetry",
    "ReportUndelivered",
    "Reservable",
    "Reserve",
    "RevokeKey",
    "Running",
    "Schedule",
    "SetNodeScheduling",
    "SetQuota",
    "SetSpendingLimit",
    "StopWorkload",
    "SubmitWorkload",
    "Submitted",
    "Tick",
    "TransferCredits",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitWorkload:
    """Accept a workload. Replies ``Submitted``, or the final ``WorkloadView`` when ``spec.waiting``.

    ``ModelServer`` payloads name a registered model. ``spec.replay_of`` names a dead letter of the same account, which
    is dealt with by this.

    Args:
        copies: of a copy of a model: refused with ``ConflictError`` where the model has that many already. So whoever
            wants a number of them gets it, however many ask at once. None takes it whatever there is.
    """

    spec: WorkloadSpec
    copies: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorkload:
    """End a workload. Idempotent: stopping what has ended changes nothing.

    Args:
        account: who asks; None for the operator, who may stop anything.
        grace_s: time between the polite and the certain signal.
    """

    workload_id: WorkloadId
    account: AccountId | None = None
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterModel:
    """Make a model known. The same registration again, whoever asks, changes nothing; another one is refused."""

    model: Model


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveModel:
    """Forget a model and stop every copy of it.

    Args:
        account: who asks, which has to own the model and every copy; None for the operator, who may forget any.
    """

    model_id: ModelId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One piece of work found on a node when it attaches."""

    workload_id: WorkloadId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachNode:
    """A machine joins, or comes back. Replies ``Attached``.

    Args:
        inventory: the work found running on it: unknown work is stopped, missing work fails, matching work goes on.
    """

    registration: NodeRegistration
    inventory: tuple[Running, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachNode:
    """A machine leaves on purpose: its work is given up at once."""

    node_id: NodeId
    epoch: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNodeScheduling:
    """Cordon (no new work) or uncordon a node, or some of its GPUs. Uncordoning calls a drain of the same off.

    Args:
        gpus: indices of the GPUs that are meant; empty means the node itself.
    """

    node_id: NodeId
    cordoned: bool
    gpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainNode:
    """Cordon a node, or some of its GPUs, and move the old work away. Again with other options replaces them.

    Work that may restart is stopped and placed elsewhere, which counts as no restart; a copy of a model is loaded
    elsewhere before it ends; other work is waited for. Asked again, another copy is loaded where the one before has
    ended.

    Args:
        gpus: indices of the GPUs that are meant; empty means the node.
        deadline_s: seconds from now after which what is left is stopped; None waits however long it takes.
        grace_s: time between the polite and the certain signal.
    """

    node_id: NodeId
    gpus: frozenset[int] = frozenset()
    deadline_s: float | None = None
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNode:
    """Set labels over those that a machine gives itself; None removes one. Others stay as they are."""

    node_id: NodeId
    labels: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuota:
    """Give an account a quota in place of the default; None gives it the default again."""

    account: AccountId
    quota: Quota | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardWorkload:
    """Put a dead letter away: its record stays, its list does not show it. Idempotent.

    Args:
        account: who asks; None for the operator.
    """

    workload_id: WorkloadId
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTelemetry:
    """A heartbeat; ``telemetry`` None is only a sign of life. Replies ``Heard``."""

    node_id: NodeId
    epoch: int
    telemetry: Telemetry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPhase:
    """A workload went to a live phase on its node (pulling, starting, running).

    Args:
        ports: published ports, once running.
    """

    node_id: NodeId
    epoch: int
    workload_id: WorkloadId
    attempt: int
    phase: Phase
    message: str = ""
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEnd:
    """An attempt ended on its node.

    Args:
        phase: succeeded, failed or stopped.
        refused: the node never started it (it is full, its engine is away): placed elsewhere without counting as a
            restart.
        begun: of what is refused: it may have begun all the same, and has certainly ended.
    """

    node_id: NodeId
    epoch: int
    workload_id: WorkloadId
    attempt: int
    phase: Phase
    message: str = ""
    result: Result = Result()
    refused: bool = False
    begun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUndelivered:
    """A node could not be handed an attempt, and may have it all the same: it is stopped, and has then failed.

    Args:
        message: why.
    """

    node_id: NodeId
    epoch: int
    workload_id: WorkloadId
    attempt: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportModels:
    """The models that a node answers for now: the whole list, sorted by model id."""

    node_id: NodeId
    epoch: int
    models: tuple[ModelSlots, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed: leases, deadlines and back-offs that are due are acted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Run one scheduling round over the pending workloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservable:
    """One slice that is wanted.

    Args:
        wants: the node offers at least one of these, as ``lowering.wanted`` names them; empty wants nothing.
        selector: labels that its node must carry.
        node_id: the only node allowed; None lets placement choose.
    """

    demand: Demand
    wants: frozenset[str] = frozenset()
    selector: Selector = ()
    node_id: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Hold slices of nodes without a workload, all of them or none. Replies the ``Reservation``.

    Sent again with the same id it is the same reservation.

    Args:
        ttl_s: after this what is left of it is given back.
        layout: how the slices lie on the nodes.
        request_digest: hash of the submitted body, compared when the id comes again.
    """

    reservation_id: ReservationId
    account: AccountId
    slices: tuple[Reservable, ...]
    ttl_s: float
    layout: Layout = Layout.ANY
    request_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReservation:
    """Give back what is left of a reservation. Replies it. Releasing what has ended changes nothing.

    Args:
        account: who asks; None for the operator, who may release any.
    """

    reservation_id: ReservationId
    account: AccountId | None = None


Command: TypeAlias = (
    SubmitWorkload
    | StopWorkload
    | RegisterModel
    | RemoveModel
    | AttachNode
    | DetachNode
    | SetNodeScheduling
    | DrainNode
    | LabelNode
    | SetQuota
    | DiscardWorkload
    | ReportTelemetry
    | ReportPhase
    | ReportEnd
    | ReportUndelivered
    | ReportModels
    | OpenAccount
    | OpenLogin
    | SetSpendingLimit
    | IssueCredits
    | TransferCredits
    | IssueKey
    | RevokeKey
    | ReportKeyUse
    | Tick
    | Schedule
    | Reserve
    | ReleaseReservation
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The workload is accepted and on disk.

    With the spec, which the sender has, a new one's reply says all that a query would: what a sender shows of what it
    has just submitted needs no second question.

    Args:
        attempt, allocation, placed_at: as in ``WorkloadView``.
        created: False when the request id was known and this is the workload of the first submission.
    """

    workload_id: WorkloadId
    phase: Phase
    node_id: NodeId | None
    message: str
    created: bool = True
    attempt: int = 0
    allocation: Allocation | None = None
    placed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The machine is part of the pool under this epoch.

    Args:
        stop: work of its inventory that the cluster does not know; the machine ends it.
    """

    node_id: NodeId
    epoch: int
    stop: tuple[Running, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The sign of life was taken.

    Args:
        report_models: the scheduler recovered and does not know the node's models any more; it wants them again.
    """

    report_models: bool = False


Reply: TypeAlias = Submitted | Attached | Heard | Posted | AccountView | KeyView | WorkloadView | Reservation | None
"""As the command's docstring says; None where it says nothing."""
