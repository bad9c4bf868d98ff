"""Events: what happened. Past tense, frozen. The only things that change ``ClusterState``.

A *durable* event and the rows it changes are one transaction; folding the durable events gives the rows. Durability
is a property of the occurrence where it depends on the workload: an inference request whose sender waits is journalled
once, at its end, by an event that carries the whole of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, TypeAlias

from arcray.core.account_events import (
    AccountOpened,
    CreditsMoved,
    KeyIssued,
    KeyRevoked,
    KeysUsed,
    LoginSet,
    SpendingLimitSet,
    WorkloadCharged,
)
from arcray.core.claim import Cause
from arcray.core.ids import AccountId, ModelId, NodeId, ReservationId, WorkloadId
from arcray.core.model import Model, ModelSlots
from arcray.core.node import Drain, Health, NodeRegistration, Telemetry
from arcray.core.quota import Quota
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.resources import Allocation
from arcray.core.workload import Phase, PortMapping, Result, WorkloadSpec

__all__ = [
    "AccountOpened",
    "BatteryRanLow",
    "ClaimEnded",
    "CreditsMoved",
    "Event",
    "KeyIssued",
    "KeyRevoked",
    "KeysUsed",
    "LogAppended",
    "LoginSet",
    "ModelRegistered",
    "ModelRemoved",
    "ModelsChanged",
    "NodeAttached",
    "NodeDetached",
    "NodeDrainChanged",
    "NodeHealthChanged",
    "NodeRelabelled",
    "NodeSchedulingChanged",
    "PlaceClaimed",
    "QuotaChanged",
    "ReservationEnded",
    "ReservationGranted",
    "ReservationTaken",
    "SpendingLimitSet",
    "TelemetryUpdated",
    "Topic",
    "WorkloadCharged",
    "WorkloadEvicted",
    "WorkloadFinished",
    "WorkloadPhaseChanged",
    "WorkloadPlaced",
    "WorkloadPreempted",
    "WorkloadRequeued",
    "WorkloadSettled",
    "WorkloadStopRequested",
    "WorkloadSubmitted",
]


class Topic(StrEnum):
    """What subscribers choose by."""

    NODES = "nodes"
    TELEMETRY = "telemetry"
    WORKLOADS = "workloads"  # all kinds but inference
    INFERENCE = "inference"
    MODELS = "models"
    LOGS = "logs"
    RESERVATIONS = "reservations"
    ACCOUNTS = "accounts"  # accounts and credits
    KEYS = "keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAttached:
    """A machine joined (``epoch`` 1) or came back."""

    durable: ClassVar[bool] = True
    registration: NodeRegistration
    epoch: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealthChanged:
    """A lease ran down or was renewed. Losing it is durable: work was given up because of it."""

    node_id: NodeId
    health: Health
    at: datetime

    @property
    def durable(self) -> bool:
        """Whether it is journalled."""
        return self.health is Health.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDetached:
    """A machine left on purpose."""

    durable: ClassVar[bool] = True
    node_id: NodeId
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSchedulingChanged:
    """An operator cordoned or uncordoned a node, or some of its GPUs; this is what holds now."""

    durable: ClassVar[bool] = True
    node_id: NodeId
    cordoned: bool
    at: datetime
    cordoned_gpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrainChanged:
    """A drain began, got other options, came to its end (``drain.done_at``) or was called off (None)."""

    durable: ClassVar[bool] = True
    node_id: NodeId
    drain: Drain | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRelabelled:
    """An operator changed labels: these are all that now lie over the node's own, None for those removed."""

    durable: ClassVar[bool] = True
    node_id: NodeId
    labels: Mapping[str, str | None]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaChanged:
    """An operator gave an account a quota of its own; None gives it the default again."""

    durable: ClassVar[bool] = True
    account: AccountId
    quota: Quota | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryUpdated:
    """A machine was heard; ``telemetry`` None is only a sign of life."""

    durable: ClassVar[bool] = False
    node_id: NodeId
    telemetry: Telemetry | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryRanLow:
    """A machine on battery fell to 0.2 or below; once per crossing."""

    durable: ClassVar[bool] = False
    node_id: NodeId
    battery_level: float
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsChanged:
    """A node answers for these models now."""

    durable: ClassVar[bool] = False
    node_id: NodeId
    models: tuple[ModelSlots, ...]
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRegistered:
    """A model became known."""

    durable: ClassVar[bool] = True
    model: Model
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRemoved:
    """A model was forgotten."""

    durable: ClassVar[bool] = True
    model_id: ModelId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSubmitted:
    """A workload was accepted."""

    spec: WorkloadSpec
    at: datetime

    @property
    def durable(self) -> bool:
        """Whether it is journalled."""
        return not self.spec.waiting

    @property
    def workload_id(self) -> WorkloadId:
        """Whose event it is."""
        return self.spec.id


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlaced:
    """An attempt began: the workload holds its allocation on a node."""

    workload_id: WorkloadId
    attempt: int
    node_id: NodeId
    allocation: Allocation
    durable: bool
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPhaseChanged:
    """A live phase was reached."""

    workload_id: WorkloadId
    attempt: int
    phase: Phase
    durable: bool
    at: datetime
    message: str = ""
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStopRequested:
    """Someone asked for its end, or a rule did, which then says why in ``reason``."""

    workload_id: WorkloadId
    durable: bool
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSettled:
    """A dead letter was dealt with: tried again by another workload, or discarded (None)."""

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    replayed_by: WorkloadId | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequeued:
    """An attempt was given up and another will follow; its allocation is free.

    Args:
        restart: whether it counts against the restart policy.
        rested: the attempt ran long enough for restarts to be counted from nothing again.
        exit_code: of the attempt, where its node told one.
        refused: its node would not begin it.
        begun: it may have begun all the same.
        gang_refused: a node would not begin another member of its gang, and this attempt was given up for that.
    """

    workload_id: WorkloadId
    attempt: int
    reason: str
    restart: bool
    not_before: datetime
    durable: bool
    at: datetime
    rested: bool = False
    exit_code: int | None = None
    refused: bool = False
    gang_refused: bool = False
    begun: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFinished:
    """The one terminal phase was reached; its allocation is free.

    Args:
        attempt: the last one, 0 when it never ran.
        spec: set when this is the first journalled event of the workload.
        node_id, started_at: as they were at the end; part of the event so that a fold needs nothing else.
    """

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    attempt: int
    phase: Phase
    message: str
    result: Result | None
    node_id: NodeId | None
    placed_at: datetime | None
    started_at: datetime | None
    at: datetime
    spec: WorkloadSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPreempted:
    """A workload was asked to end to make room for another one; it starts again later.

    Args:
        by: for which workload.
        reason: who that is and why, for people.
    """

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    attempt: int
    by: WorkloadId
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEvicted:
    """The cluster asked for the end of an attempt, for another reason than to make room.

    Args:
        restart: whether the attempt that follows counts as a restart.
        fails: none follows; it ends as failed.
    """

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    attempt: int
    reason: str
    restart: bool
    fails: bool
    at: datetime
    cause: Cause = Cause.GANG  # what it was before there were others, in rows of then


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceClaimed:
    """A place is kept for a pending workload while those preempted for it end.

    Args:
        allocation: what it will need of the node.
        until: when it is given up if they have not all ended.
    """

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    node_id: NodeId
    allocation: Allocation
    victims: tuple[WorkloadId, ...]
    at: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimEnded:
    """The place is kept no longer: its workload is placed there next, or waits like any other again."""

    durable: ClassVar[bool] = True
    workload_id: WorkloadId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationGranted:
    """Slices of nodes are held without a workload."""

    durable: ClassVar[bool] = True
    reservation: Reservation
    at: datetime

    @property
    def reservation_id(self) -> ReservationId:
        """Whose event it is."""
        return self.reservation.id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationTaken:
    """A workload took its place out of a reservation; it is placed there next.

    Args:
        index: of the slice.
        left: what stays reserved of it.
    """

    durable: ClassVar[bool] = True
    reservation_id: ReservationId
    workload_id: WorkloadId
    index: int
    left: Allocation
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationEnded:
    """A reservation holds nothing any more."""

    durable: ClassVar[bool] = True
    reservation_id: ReservationId
    state: ReservationState
    message: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAppended:
    """A workload's log grew to ``size_bytes``. Published by the shell; core never sees logs."""

    durable: ClassVar[bool] = False
    workload_id: WorkloadId
    size_bytes: int
    at: datetime


Event: TypeAlias = (
    NodeAttached
    | NodeHealthChanged
    | NodeDetached
    | NodeSchedulingChanged
    | NodeDrainChanged
    | NodeRelabelled
    | QuotaChanged
    | TelemetryUpdated
    | BatteryRanLow
    | ModelsChanged
    | ModelRegistered
    | ModelRemoved
    | WorkloadSubmitted
    | WorkloadPlaced
    | WorkloadPhaseChanged
    | WorkloadStopRequested
    | WorkloadRequeued
    | WorkloadSettled
    | WorkloadFinished
    | WorkloadCharged
    | AccountOpened
    | LoginSet
    | SpendingLimitSet
    | CreditsMoved
    | KeyIssued
    | KeyRevoked
    | KeysUsed
    | LogAppended
    | WorkloadPreempted
    | WorkloadEvicted
    | PlaceClaimed
    | ClaimEnded
    | ReservationGranted
    | ReservationTaken
    | ReservationEnded
)
