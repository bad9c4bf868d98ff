"""One node's connection, sans-I/O: what it says is judged here, and how it is answered is decided here.

A connection begins with a registration, whose shape says the dialect and whose frame says the form. What comes before
one, or of another version, ends it. Later words that are wrong change nothing: they are refused, which the dialect of
the first implementation has a message for, and given out to be recorded.

A node that comes back is asked for each piece of work that it should have (``recall``), because a registration cannot
tell of any. What it does not know of is not there, and it is told to end that all the same.

Source: claw-proto API Reference, "Node Messages" and "Gateway Messages".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Final, TypeAlias, assert_never

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.frames import (
    AnyGatewayMessage,
    Dialect,
    Form,
    Frame,
    is_too_large,
    read_from_node,
    read_opening,
    write_to_node,
)
from arcray.claw_proto.version import agree
from arcray.core.commands import Running
from arcray.core.errors import ArcrayError, InvalidArgumentError, NotFoundError
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.workload import Phase
from arcray.facades.claw import replies
from arcray.facades.claw.attempts import Attempts
from arcray.facades.claw.nodes import reading_of, registration_of
from arcray.facades.claw.reports import log_of, state_of

__all__ = [
    "AGAIN_LATER",
    "POLICY",
    "PROTOCOL_ERROR",
    "REPLACED",
    "TOO_BIG",
    "Action",
    "Beat",
    "ClawSession",
    "Close",
    "Join",
    "Latency",
    "Refused",
    "Rejected",
    "Send",
    "Terms",
    "Told",
    "Wrote",
]

PROTOCOL_ERROR: Final = 1002
POLICY: Final = 1008
TOO_BIG: Final = 1009
AGAIN_LATER: Final = 1013
REPLACED: Final = 4000
"""The node has a newer connection."""

_OVERSIZED: Final = 3  # messages that are let pass unread; one more ends the connection
_REASON_BYTES: Final = 123  # what a close frame has room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a node is told when it registers.

    Args:
        heartbeat_s: between two heartbeats.
        metrics_s: between two readings.
    """

    heartbeat_s: int
    metrics_s: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send this frame."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection.

    Args:
        reason: for people; at most 123 bytes, which is what a close frame has room for.
    """

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """The node registers, or registers again: attach it, then call ``welcome``."""

    registration: NodeRegistration


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life; ``telemetry`` is its reading, None where it has none."""

    telemetry: Telemetry | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """An attempt went to a state, by the node's word.

    Args:
        refused: it has failed, and was never begun.
    """

    work: Running
    state: claw.WorkloadState
    message: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Wrote:
    """What an attempt wrote, to be added to its log."""

    work: Running
    data: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """An attempt cannot run on this node, which was not told of it."""

    work: Running
    error: ArcrayError


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that the node said was refused: to be recorded."""

    error: ArcrayError


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the node took to answer a ping."""

    seconds: float


Action: TypeAlias = Send | Close | Join | Beat | Told | Wrote | Rejected | Refused | Latency


class ClawSession:
    """The connection of one node.

    Args:
        address: of the process that it is connected to, for its registration.
    """

    def __init__(self, terms: Terms, *, address: str = "") -> None:
        self._terms = terms
        self._address = address
        self._config: claw.NodeConfig | None = None
        self._dialect = Dialect.DOCUMENT
        self._form = Form.INTERNAL
        self._answered_in = Form.INTERNAL  # the form of what came last, which its answer has
        self._registration: NodeRegistration | None = None
        self._waits = False  # for the answer to its registration
        self._leaves = False
        self._attempts = Attempts(self._dialect)
        self._asked: dict[claw.WorkloadId, Running] = {}
        self._recalled: list[Running] = []
        self._pinged_at: datetime | None = None
        self._oversized = 0

    @property
    def registration(self) -> NodeRegistration | None:
        """What the node said of itself last; None before it has."""
        return self._registration

    @property
    def dialect(self) -> Dialect:
        """Whose messages it speaks."""
        return self._dialect

    @property
    def leaves(self) -> bool:
        """Whether it was told to leave, and has not registered since: no word calls that off."""
        return self._leaves

    @property
    def unanswered(self) -> int:
        """How many questions of ``recall`` wait for an answer."""
        return len(self._asked)

    def __len__(self) -> int:
        """Returns how many attempts it has that have not ended."""
        return len(self._attempts)

    # -- what the node says -------------------------------------------------------------------------------------------

    def receive(self, frame: Frame, now: datetime) -> Sequence[Action]:  # noqa: C901, PLR0911  one arm per message
        """Takes a frame; returns what to do about it, in this order."""
        if is_too_large(frame):
            return self._take_oversized()
        if self._registration is None:
            return self._open(frame)
        try:
            message, form = read_from_node(frame, self._dialect)
        except claw.ProtoError as error:
            return self._refuse(error)
        self._answered_in = form
        match message:
            case claw.Register() | original.Register():
                return self._register(message)
            case claw.Heartbeat():
                return self._beat(message, now)
            case claw.Metrics() | original.Metrics():
                if message.node_id != self._node_id:
                    return self._refuse(_not_this_node())
                return (Beat(reading_of(message, self._registration, now)),)
            case claw.WorkloadUpdate() | original.WorkloadUpdate():
                return self._update(message)
            case claw.WorkloadLogs():
                work = self._attempts.known(message.workload_id) or self._asked.get(message.workload_id)
                if work is None:
                    return self._refuse(NotFoundError("no such workload on this node", field="workload_id"))
                return (Wrote(work, log_of(message.lines)),) if message.lines else ()
            case _:
                assert_never(message)

    @property
    def _node_id(self) -> str:
        assert self._registration is not None
        return self._registration.external_id

    def _open(self, frame: Frame) -> Sequence[Action]:
        try:
            opening = read_opening(frame)
        except claw.ProtoError as error:
            return Refused(error), _closing(PROTOCOL_ERROR, str(error))
        self._dialect = opening.dialect
        self._form = self._answered_in = opening.form
        self._attempts = Attempts(opening.dialect)
        return self._register(opening.register)

    def _register(self, register: claw.Register | original.Register) -> Sequence[Action]:
        first = self._registration is None
        try:
            agree(register.protocol_version)
        except claw.ProtoError as error:
            return *self._refuse(error), _closing(PROTOCOL_ERROR, str(error))
        if not first and register.node_id != self._node_id:
            return self._refuse(_not_this_node())
        try:
            registration = registration_of(register, address=self._address)
        except InvalidArgumentError as error:
            refused = self._refuse(error)
            return (*refused, _closing(PROTOCOL_ERROR, str(error))) if first else refused
        self._registration = registration
        self._waits, self._leaves = True, False
        return (Join(registration=registration),)

    def _beat(self, message: claw.Heartbeat, now: datetime) -> Sequence[Action]:
        if message.node_id != self._node_id:
            return self._refuse(_not_this_node())
        answer = self._said(replies.acknowledged(self._dialect, now), answers=True)
        if self._pinged_at is None:
            return answer, Beat()
        took_s = max(0.0, (now - self._pinged_at).total_seconds())
        self._pinged_at = None
        return answer, Beat(), Latency(took_s)

    def _update(self, message: claw.WorkloadUpdate | original.WorkloadUpdate) -> Sequence[Action]:
        name, state = message.workload_id, state_of(message)
        recalled = self._asked.pop(name, None)
        if recalled is not None:
            self._attempts.resume(recalled, state)
            self._recalled.append(recalled)
            return (Told(recalled, state, message.message),)
        try:
            step = self._attempts.told(name, state)
        except NotFoundError as error:
            refused = self._refuse(error)
            if state.is_terminal or self._attempts.known(name) is not None:
                return refused
            return *refused, self._said(_fence(self._dialect, name))  # nobody wants that done
        except claw.ProtoError as error:
            return self._refuse(error)
        if step.state is step.before:
            return ()
        return (Told(step.work, step.state, message.message, refused=step.refused),)

    def _take_oversized(self) -> Sequence[Action]:
        self._oversized += 1
        error = InvalidArgumentError("has more bytes than a message may have", field="message")
        if self._oversized > _OVERSIZED:
            return Refused(error), _closing(TOO_BIG, str(error))
        return self._refuse(error)

    def _refuse(self, error: ArcrayError) -> Sequence[Action]:
        message = replies.refused(self._dialect, error)
        return (Refused(error),) if message is None else (Refused(error), self._said(message, answers=True))

    # -- what it is told ----------------------------------------------------------------------------------------------

    def welcome(self) -> Sequence[Action]:
        """Answers a registration that was not answered yet."""
        assert self._registration is not None, "it has registered"
        if not self._waits:
            return ()
        self._waits = False
        message = replies.registered(
            self._dialect,
            claw.NodeId(self._node_id),
            heartbeat_s=self._terms.heartbeat_s,
            metrics_s=self._terms.metrics_s,
            config=self._config,
        )
        answer = self._said(message, answers=True)
        if self._config is None or self._dialect is Dialect.DOCUMENT:
            return (answer,)
        return answer, self._said(replies.configured(self._dialect, self._config))

    def turn_away(self, error: ArcrayError, code: int = POLICY) -> Sequence[Action]:
        """Refuses a registration that the cluster does not take."""
        return *self._refuse(error), _closing(code, str(error))

    def recall(self, works: Sequence[tuple[Running, Phase]]) -> Sequence[Action]:
        """Asks for work that the node should have. One that cannot be asked is taken to have what has begun.

        Args:
            works: what the cluster has placed there, and how far it knows it to be.
        """
        questions: list[Action] = []
        for work, phase in works:
            name = replies.wire_id(work.workload_id, work.attempt)
            question = replies.status_asked(self._dialect, name)
            if question is not None:
                self._asked[name] = work
                questions.append(self._said(question))
            elif phase is Phase.PLACED:
                questions.append(self._said(_fence(self._dialect, name)))
            else:
                self._attempts.resume(work, _STATES.get(phase, claw.WorkloadState.STARTING))
                self._recalled.append(work)
        return questions

    def recalled(self) -> tuple[Sequence[Running], Sequence[Action]]:
        """Ends ``recall``: returns what the node has, or has ended meanwhile, and what ends the rest for certain."""
        fences = [self._said(_fence(self._dialect, name)) for name in self._asked]
        self._asked.clear()
        found, self._recalled = self._recalled, []
        return found, fences

    def inventory(self) -> Sequence[Running]:
        """Returns the attempts that have not ended."""
        return self._attempts.inventory()

    def deliver(self, order: Order, now: datetime) -> Sequence[Action]:  # noqa: PLR0911  one arm per order
        """Hands an order over; one that came before does nothing."""
        work = Running(workload_id=order.workload_id, attempt=order.attempt)
        match order:
            case StartWorkload():
                if not self._attempts.give(order):
                    return ()
                try:
                    return (self._said(replies.deployed(self._dialect, order, now)),)
                except ArcrayError as error:
                    self._attempts.withdraw(work)
                    return (Rejected(work, error),)
            case StopAttempt():
                if self._attempts.stop(order):
                    return (self._said(replies.stopped(self._dialect, order)),)
                if self._attempts.known(replies.wire_id(work.workload_id, work.attempt)) is not None:
                    return ()  # it has ended, and that is being told
                return (Told(work, claw.WorkloadState.STOPPED, "was not on its node"),)
            case RunInference():
                return (Rejected(work, InvalidArgumentError("a claw node answers no requests", field="payload")),)
            case _:
                assert_never(order)

    def fence(self, work: Running) -> Action:
        """Ends an attempt that the cluster does not want any more."""
        self._attempts.stop(work)
        return self._said(_fence(self._dialect, replies.wire_id(work.workload_id, work.attempt)))

    def configure(self, config: claw.NodeConfig | None) -> Sequence[Action]:
        """Has the node go by another configuration: by its welcome where that is yet to come, else at once."""
        before, self._config = self._config, config
        if config == before or self._waits:
            return ()
        told = self._instead_of(before or claw.NodeConfig(), config or claw.NodeConfig())
        return () if told == claw.NodeConfig() else (self._said(replies.configured(self._dialect, told)),)

    def _instead_of(self, before: claw.NodeConfig, config: claw.NodeConfig) -> claw.NodeConfig:
        """Returns what has a node go by a configuration; a field that is left out on the wire would change nothing."""
        own = claw.NodeConfig(
            heartbeat_interval_secs=self._terms.heartbeat_s,
            metrics_interval_secs=self._terms.metrics_s,
            max_concurrent_workloads=None if self._registration is None else self._registration.max_workloads,
        )
        names = [field.name for field in fields(own) if getattr(config, field.name) is None]
        back = {name: getattr(own, name) for name in names if getattr(before, name) is not None}
        return replace(config, **back)

    def ping(self, now: datetime) -> Sequence[Action]:
        """Asks for an answer at once, unless one is waited for already."""
        message = replies.pinged(self._dialect, now)
        if message is None or self._pinged_at is not None:
            return ()
        self._pinged_at = now
        return (self._said(message),)

    def shut_down(self, reason: str, *, graceful: bool) -> Sequence[Action]:
        """Has the node leave; the first implementation has no word for it, and is hung up on."""
        self._leaves = True
        message = replies.shut_down(self._dialect, reason, graceful=graceful)
        return (_closing(POLICY, reason),) if message is None else (self._said(message),)

    def _said(self, message: AnyGatewayMessage, *, answers: bool = False) -> Send:
        # Who began in binary is told everything so; other answers have the form of what they answer.
        form = self._answered_in if answers and self._form is not Form.BINARY else self._form
        return Send(write_to_node(message, form))


_STATES: Final = {Phase.RUNNING: claw.WorkloadState.RUNNING, Phase.STOPPING: claw.WorkloadState.STOPPING}


def _closing(code: int, reason: str) -> Close:
    return Close(code, reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore"))


def _not_this_node() -> NotFoundError:
    return NotFoundError("is not the node that registered on this connection", field="node_id")


def _fence(dialect: Dialect, name: claw.WorkloadId) -> AnyGatewayMessage:
    if dialect is Dialect.ORIGINAL:
        return original.StopWorkload(workload_id=name, grace_period_secs=0)
    return claw.StopWorkload(workload_id=name, force=True)
