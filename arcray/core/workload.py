"""A workload: one piece of work, whatever protocol it came by.

``WorkloadSpec`` is what was asked and never changes; ``Workload`` is its state, owned and mutated by
``ClusterState.apply`` alone; ``WorkloadView`` is what everyone else sees. A payload says what to run, never where.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final, TypeAlias

from arcray.core.claim import Claim, Eviction
from arcray.core.gang import Gang
from arcray.core.ids import AccountId, ModelId, NodeId, ReservationId, WorkloadId
from arcray.core.labels import LabelTerm
from arcray.core.model import Model
from arcray.core.resources import NO_DEMAND, Allocation, Demand
from arcray.core.tariff import Meter, Tariff

__all__ = [
    "ATTEMPTS_KEPT",
    "AttemptRecord",
    "Container",
    "Inference",
    "ModelServer",
    "Origin",
    "Payload",
    "PayloadKind",
    "Phase",
    "PortMapping",
    "Priority",
    "Program",
    "RestartPolicy",
    "RestartRule",
    "Result",
    "VolumeMount",
    "Workload",
    "WorkloadSpec",
    "WorkloadView",
    "kind_of",
]

ATTEMPTS_KEPT: Final = 10
"""Records of ended attempts in the state, and so in the row, of one workload."""


class Phase(StrEnum):
    """Where a workload stands. The last four are terminal: exactly one of them is reached."""

    PENDING = "pending"  # accepted, not placed yet
    PLACED = "placed"  # holds its allocation; its order is on the way
    PULLING = "pulling"  # the node fetches an image, an archive or a model
    STARTING = "starting"  # the node creates the process or container
    RUNNING = "running"
    STOPPING = "stopping"  # asked to end
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # ended on request
    REJECTED = "rejected"  # never ran: nothing could take it

    @property
    def terminal(self) -> bool:
        """Whether nothing follows it."""
        return self in _TERMINAL


_TERMINAL = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED, Phase.REJECTED})


class Priority(IntEnum):
    """Order of placement; lower goes first."""

    CRITICAL = 0
    NORMAL = 1
    BACKGROUND = 2


class PayloadKind(StrEnum):
    """The kind of a payload, as it stands in rows and on our own wire."""

    CONTAINER = "container"
    PROGRAM = "program"
    INFERENCE = "inference"
    MODEL = "model"


class RestartRule(StrEnum):
    """When ended work is started again, as another attempt."""

    NEVER = "never"
    ON_LOSS = "on_loss"  # after a node was lost with it; what fails by itself has failed
    ON_FAILURE = "on_failure"  # after a failure or a lost node
    ALWAYS = "always"  # after any end that nobody asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Restarts of a workload.

    Args:
        max_restarts: restarts in a row, after the first attempt or after one that ran long; None is no limit.
    """

    rule: RestartRule = RestartRule.NEVER
    max_restarts: int | None = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A container port; ``host_port`` None lets the engine choose."""

    container_port: int
    host_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A host path (from the node's allow-list) seen inside a container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Run an image.

    Args:
        command: replaces the image's entry point; () keeps it.
        args: arguments of the entry point; () keeps the image's own.
    """

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    ports: tuple[PortMapping, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Run Python code. Its stdout is its log; files under ``$ARCRAY_RESULT_DIR`` are its result.

    Args:
        blob: key of the source text or zip archive in the blob store.
        archive: whether the blob is a zip; else it is the text of ``main.py``.
        entry_point: file inside the archive to run; "" picks main.py, task_script.py, run.py, app.py, script.py, or
            the first ``*.py`` in that order.
        stdin_blob: key of what its standard input reads; "" reads nothing.
    """

    blob: str
    archive: bool = False
    entry_point: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin_blob: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """Answer one request with a loaded model.

    Args:
        input: UTF-8 JSON of the input, opaque to core; None when the request has none.
        max_latency_ms: what the requester wishes; no deadline, see the decisions in ARCHITECTURE.md.
        longitude, latitude: the requester's position in degrees, both None when unknown.
    """

    model_id: ModelId
    input: bytes | None = None
    context_window_tokens: int = 1
    max_latency_ms: int = 500
    requester_geozone: str = ""
    geohash: str = ""
    longitude: float | None = None
    latitude: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelServer:
    """Keep one copy of a model loaded. Running means that it answers."""

    model: Model


Payload: TypeAlias = Container | Program | Inference | ModelServer


def kind_of(payload: Payload) -> PayloadKind:
    """Returns the payload's kind."""
    return _KINDS[type(payload)]


_KINDS: dict[type, PayloadKind] = {
    Container: PayloadKind.CONTAINER,
    Program: PayloadKind.PROGRAM,
    Inference: PayloadKind.INFERENCE,
    ModelServer: PayloadKind.MODEL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who sent a workload.

    Args:
        facade: protocol it came by.
        account: who owns it and pays.
        external_id: its id on that wire, unique per (facade, account); "" when that is the core id.
    """

    facade: str
    account: AccountId
    external_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What was asked; never changes.

    Args:
        request_id: idempotency key of the submission, unique per account; "" when there was none.
        request_digest: hash of the submitted body, compared when the key comes again.
        selector: labels that the node must carry.
        selector_terms: what its labels must satisfy besides.
        node_id: the only node allowed; None lets placement choose.
        max_duration_s: running longer is stopped and failed; None is no limit.
        waiting: the submitter waits for the end, so only the end is journalled (inference requests).
        tariff: what it costs; None goes by the pool's prices.
        preemptible: it may be ended, and started again later, to make room for work of a higher priority.
        gang: it starts together with the other members or not at all.
        reservation_id: it takes its place out of this reservation.
        replay_of: the dead letter that this is another try of.
        replaces: the copy of a model on a draining node that ends once this one answers.
        replaced_in_turn: live copies that the replaced one was to replace itself when this was begun, nearest first.
    """

    id: WorkloadId
    origin: Origin
    payload: Payload
    created_at: datetime
    name: str = ""
    demand: Demand = NO_DEMAND
    priority: Priority = Priority.NORMAL
    restart: RestartPolicy = RestartPolicy()
    selector: tuple[tuple[str, str], ...] = ()
    selector_terms: tuple[LabelTerm, ...] = ()
    node_id: NodeId | None = None
    max_duration_s: float | None = None
    request_id: str = ""
    request_digest: str = ""
    waiting: bool = False
    tariff: Tariff | None = None
    preemptible: bool = False
    gang: Gang | None = None
    reservation_id: ReservationId | None = None
    replay_of: WorkloadId | None = None
    replaces: WorkloadId | None = None
    replaced_in_turn: tuple[WorkloadId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How an attempt ended, as its node reported it.

    Args:
        exit_code: of the process or container; None when there was none.
        output: UTF-8 JSON that an inference answered; journalled only where its sender does not wait for it.
        duration_ms: on the node, from start to end.
        blobs: keys of result files in the blob store, sorted.
        pid: process that did the work; None where unknown.
        log_bytes: of the workload's log at the end; None where that is not known, or may have grown since.
    """

    exit_code: int | None = None
    output: bytes | None = None
    duration_ms: float | None = None
    blobs: tuple[str, ...] = ()
    pid: int | None = None
    log_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """How one attempt went.

    Args:
        exit_code: of its process or container; None when there was none, or it is not known.
        message: why it ended.
        refused: its node would not begin it.
        begun: it may have begun all the same.
    """

    attempt: int
    node_id: NodeId | None
    placed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime
    message: str = ""
    exit_code: int | None = None
    refused: bool = False
    begun: bool = False


@dataclass(slots=True, kw_only=True)
class Workload:
    """A workload's state. Only ``ClusterState.apply`` changes it.

    Args:
        attempt: 0 before the first placement; fences reports of earlier attempts off. Each is higher than the one
            before; where the sender waits, one after a restart of the scheduler is much higher.
        restarts: attempts that were restarts, in all.
        streak: restarts since an attempt last ran long; what the restart policy and the back-off go by.
        message: last word about it for people: why it waits, why it failed.
        not_before: a requeued workload is not placed before this.
        stop_reason: why a rule asked for its end; "" where a person did, or nobody has.
        meter: what it has cost; None where it costs nothing.
        claim: the place that is kept for it while those preempted for it end; it is pending meanwhile.
        eviction: why the cluster asked for the end of the present attempt; None while it did not.
        preemptions: how often it was ended for other work.
        joined_at: when the scheduler took it up as a member of its gang; None where it belongs to none.
        refusals: how many of its attempts, up to the last one, came to nothing because nodes would not begin them, or
            another member of its gang.
        history: the newest attempts before the present one, oldest first.
        replayed_by: the workload that tries again what this one failed at.
        discarded: an operator or its owner has put this dead letter away.
    """

    spec: WorkloadSpec
    phase: Phase = Phase.PENDING
    attempt: int = 0
    restarts: int = 0
    node_id: NodeId | None = None
    allocation: Allocation | None = None
    message: str = ""
    result: Result | None = None
    placed_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    stop_requested: bool = False
    not_before: datetime | None = None
    ports: tuple[PortMapping, ...] = field(default=())
    stop_reason: str = ""
    meter: Meter | None = None
    claim: Claim | None = None
    eviction: Eviction | None = None
    preemptions: int = 0
    streak: int = 0
    refusals: int = 0
    history: tuple[AttemptRecord, ...] = ()
    replayed_by: WorkloadId | None = None
    discarded: bool = False
    joined_at: datetime | None = None

    @property
    def id(self) -> WorkloadId:
        """Its core id."""
        return self.spec.id

    @property
    def repeatable(self) -> bool:
        """Whether its key is free for another try: its sender waited, and was told that nothing was done."""
        return self.spec.waiting and self.phase is Phase.REJECTED

    @property
    def dead(self) -> bool:
        """Whether it is a dead letter: it ended badly without anybody wishing so, and nobody has dealt with it.

        A request whose sender waited is none: the sender has the error and knows best whether to ask again.
        """
        return (
            self.phase in (Phase.FAILED, Phase.REJECTED)
            and not self.spec.waiting
            and not self.discarded
            and self.replayed_by is None
        )

    @property
    def may_preempt(self) -> bool:
        """Whether other work may be ended for it: what was preempted itself preempts nobody."""
        return not self.preemptions

    @property
    def refused_by(self) -> frozenset[NodeId]:
        """The nodes that would not begin it of late, as far as its history goes back."""
        if not self.refusals:
            return frozenset()
        of_late = self.history[-self.refusals :]
        return frozenset(each.node_id for each in of_late if each.refused and each.node_id is not None)

    def attempts(self) -> tuple[AttemptRecord, ...]:
        """Returns how the newest attempts went, oldest first; a live one is not among them."""
        if not self.phase.terminal or not self.attempt or self.finished_at is None:
            return self.history
        if self.history and self.history[-1].attempt == self.attempt:
            return self.history  # it ended while it waited for another attempt
        exit_code = self.result.exit_code if self.result else None
        return (*self.history, self.record(self.finished_at, self.message, exit_code))

    def record(
        self, ended_at: datetime, message: str, exit_code: int | None, *, refused: bool = False, begun: bool = False
    ) -> AttemptRecord:
        """Returns how its present attempt went, which has just ended."""
        return AttemptRecord(
            attempt=self.attempt,
            node_id=self.node_id,
            placed_at=self.placed_at,
            started_at=self.started_at,
            ended_at=ended_at,
            message=message,
            exit_code=exit_code,
            refused=refused,
            begun=begun,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadView:
    """What a query answers about a workload; a snapshot of ``Workload``.

    Args:
        attempts: how the newest attempts that have ended went, oldest first.
        dead: it is a dead letter.
    """

    spec: WorkloadSpec
    phase: Phase
    attempt: int
    restarts: int
    node_id: NodeId | None
    allocation: Allocation | None
    message: str
    result: Result | None
    placed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    ports: tuple[PortMapping, ...]
    meter: Meter | None = None
    claim: Claim | None = None
    eviction: Eviction | None = None
    preemptions: int = 0
    not_before: datetime | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    replayed_by: WorkloadId | None = None
    dead: bool = False
