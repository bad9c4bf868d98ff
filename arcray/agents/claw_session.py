"""One machine's side of claw-proto, over all of its connections. No I/O: frames and reports in, frames and orders out.

What lives here: what is said of workloads, and what is done about the gateway's words. What does not: when words are
heard (``claw_outbox``), sockets (``link``), disks and the node (``claw_pool``).

- **Words wait.** A step of a workload, and a piece of its log, are kept until they are heard. What was unheard when a
  connection broke is told over the next one, in order; of what runs besides is told where it stands. Ends of late are
  told again even if they were heard: a gateway may be killed between hearing and writing.
- **Attempts.** What was deployed is begun once, whatever comes twice. What a gateway asks about and was never here is
  not answered: there is no word for it. What it has end before it came is not begun if it comes later.
- **Bounds.** So many workloads run, so many that ended are remembered, so many words wait: a gateway that asks faster
  than it listens is read more slowly (``congested``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from arcray import claw_proto as claw
from arcray.agents.claw_orders import allocate, capabilities_of, metrics_of, order_of, published
from arcray.agents.claw_outbox import Outbox, Word
from arcray.agents.claw_works import Finish, Work, log_messages, read_record, record_of, words
from arcray.claw_proto import PROTOCOL_VERSION, WorkloadState
from arcray.claw_proto.frames import AnyGatewayMessage, Form, Frame, read_from_gateway, write_to_gateway
from arcray.claw_proto.lifecycle import TRANSITIONS
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import ArcrayError, ConflictError, InvalidArgumentError, ResourceExhaustedError
from arcray.core.ids import WorkloadId
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.ports import Clock
from arcray.core.workload import Phase, PortMapping
from arcray.facades.claw.specs import container_of, demand_of
from arcray.node.gpu import GpuDetails

__all__ = ["Action", "ClawSession", "Leave", "SetLogLevel"]

_log = logging.getLogger(__name__)

_STATES: Final[Mapping[Phase, WorkloadState]] = {
    Phase.PULLING: WorkloadState.PULLING,
    Phase.STARTING: WorkloadState.STARTING,
    Phase.RUNNING: WorkloadState.RUNNING,
    Phase.SUCCEEDED: WorkloadState.COMPLETED,
    Phase.FAILED: WorkloadState.FAILED,
    Phase.STOPPED: WorkloadState.STOPPED,
}
_STOP_GRACE_S: Final = 30.0
_LEAVE_GRACE_S: Final = 5.0
_RETOLD_S: Final = 60.0
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The gateway wants this machine to go; after what runs has ended where ``graceful`` is set."""

    reason: str
    graceful: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLogLevel:
    """The gateway wants this machine to log so much."""

    level: str


Action: TypeAlias = StartWorkload | StopAttempt | Leave | SetLogLevel
"""What a frame asks of the machine."""


@dataclass(frozen=True, slots=True)
class _Ended:
    update: claw.WorkloadUpdate
    at_s: float


class ClawSession:
    """What one machine says to its gateway.

    Args:
        form: of its frames; the gateway's are read in any.
        max_workloads: how many may run, until the gateway says otherwise.
        details: of its GPUs.
        is_free: whether nobody else listens at a port of this host.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        node_id: claw.NodeId,
        name: str,
        form: Form,
        max_workloads: int,
        details: Mapping[int, GpuDetails],
        is_free: Callable[[int], bool],
    ) -> None:
        self._clock = clock
        self._node_id = node_id
        self._name = name
        self._form = form
        self._offered = self._max_workloads = max_workloads
        self._details = details
        self._is_free = is_free
        self._registration: NodeRegistration | None = None
        self._telemetry: Telemetry | None = None
        self._works: dict[claw.WorkloadId, Work] = {}
        self._ended: OrderedDict[claw.WorkloadId, _Ended] = OrderedDict()
        self._changed: dict[claw.WorkloadId, None] = {}  # in order
        self._outbox = Outbox(clock, node_id)
        self._leaving = ""

    # -- what the machine says ----------------------------------------------------------------------------------------

    def restore(self, records: Sequence[bytes]) -> None:
        """Takes up what an earlier agent kept; before ``attach``."""
        for record in records:
            try:
                work = read_record(record)
            except InvalidArgumentError as error:
                _log.warning("record of a workload not read", extra={"reason": str(error)})
                continue
            self._works[work.id] = work

    def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> tuple[Running, ...]:
        """Takes what this machine is, and what runs here; returns what runs and was never deployed."""
        first, self._registration = self._registration is None, registration
        if not first:
            return ()
        here = {work.workload_id: work for work in inventory}
        for work in self._works.values():
            found = here.pop(WorkloadId(work.id), None)
            if found is not None and not work.state.is_terminal:
                work.attempt, work.began, work.began_at_s = found.attempt, True, self._clock.monotonic()
                work.finish = work.restart_at_s = None
                if not work.stop_asked:
                    self._go(work, WorkloadState.RUNNING)
            elif work.state.is_terminal:
                work.untold.append(work.update(self._now(), work.told_at_end))
            elif work.finish is None and work.restart_at_s is None:
                work.began, work.began_at_s = work.state is WorkloadState.RUNNING, self._clock.monotonic()
                self.ended(work.unseen_end(registration.id))
        return tuple(here.values())

    @property
    def registration(self) -> NodeRegistration:
        """What this machine is."""
        assert self._registration is not None, "attached"
        return self._registration

    def phase(self, report: ReportPhase) -> None:
        """Takes that an attempt went to a live phase."""
        work = self._of(report.workload_id, report.attempt)
        if work is None:
            return
        state = _STATES[report.phase]
        if state is WorkloadState.RUNNING:
            work.began, work.began_at_s = True, self._clock.monotonic()
        if work.stop_asked or (work.attempt > 1 and state is not WorkloadState.RUNNING):
            return
        message = report.message
        if report.ports:
            places = ", ".join(f"{port.container_port} at {port.host_port}" for port in report.ports)
            message = f"{message}; published {places}".removeprefix("; ")
        self._go(work, state, message)

    def ended(self, report: ReportEnd) -> Work | None:
        """Takes that an attempt has ended; returns the workload where it is over, which is told by ``finish``."""
        work = self._of(report.workload_id, report.attempt)
        if work is None:
            return None
        again = None if self._leaving else work.restart(report, self._clock.monotonic())
        if again is not None:
            self._go(work, WorkloadState.RUNNING, again)
            return None
        work.finish = Finish(state=_STATES[report.phase], message=report.message)
        if work.stop_asked and report.phase is Phase.SUCCEEDED:
            work.finish = Finish(state=WorkloadState.STOPPED, message=report.message)
        if work.evicted and report.phase is Phase.STOPPED:
            work.finish = Finish(state=WorkloadState.FAILED, message=f"its node leaves: {self._leaving}")
        self._changed[work.id] = None
        return work

    def finish(self, work: Work) -> None:
        """Tells the end of a workload: all that it wrote was."""
        if work.finish is None or work.state.is_terminal:
            return
        self._go(work, work.finish.state, work.finish.message)

    def reading(self, telemetry: Telemetry | None) -> None:
        """Takes how this machine is."""
        self._telemetry = telemetry or self._telemetry

    def log(self, work: Work, data: bytes, *, last: bool, full: bool) -> int:
        """Takes what follows of a workload's log; returns how much of it was taken.

        Args:
            last: nothing follows.
            full: there may be more.
        """
        messages, taken = log_messages(work.id, data, last=last, full=full)
        work.log_sent += taken
        self._outbox.say(Word(message, work) for message in messages[:-1])
        self._outbox.say(Word(message, work, log_bytes=work.log_sent) for message in messages[-1:])
        return taken

    def logged(self) -> tuple[Work, ...]:
        """Returns whose logs can be told now; () while the gateway is away, or has enough to read."""
        if not self._outbox.takes_logs:
            return ()
        return tuple(work for work in self._works.values() if not work.state.is_terminal)

    def restarts(self) -> list[StartWorkload]:
        """Returns the orders of what is to be started again now."""
        now_s = self._clock.monotonic()
        due = [each for each in self._works.values() if each.restart_at_s is not None and each.restart_at_s <= now_s]
        return [self._again(work) for work in due]

    def _again(self, work: Work) -> StartWorkload:
        work.restart_at_s, work.began = None, False
        work.attempt += 1
        self._changed[work.id] = None
        return order_of(work.workload, work.attempt, work.allocation, self._published(work))

    def undelivered(self, order: StartWorkload, error: ArcrayError) -> None:
        """Takes that the node would not have an order."""
        work = self._of(order.workload_id, order.attempt)
        if work is not None:
            self._fail(work, str(error))

    def leave(self, reason: str, *, stop: bool) -> list[StopAttempt]:
        """Takes no more work; returns the orders that end what runs, unless that is waited for.

        What is ended so has failed, because nobody has asked for its end: whoever deployed it may do so elsewhere.
        """
        self._leaving = reason or "it was asked to"
        if not stop:
            return []
        orders = []
        for work in self._works.values():
            if work.occupies:
                work.evicted = not work.stop_asked
                orders += self._stopped(work, _LEAVE_GRACE_S)
        return orders

    @property
    def running(self) -> int:
        """How many workloads have not ended here."""
        return sum(work.occupies for work in self._works.values())

    @property
    def left(self) -> bool:
        """Whether this machine was to leave, and everything is over and heard."""
        return bool(self._leaving) and not self._works and not len(self._outbox)

    @property
    def leaving(self) -> bool:
        """Whether this machine takes no more work."""
        return bool(self._leaving)

    def changes(self) -> dict[claw.WorkloadId, bytes | None]:
        """Returns the records that are to be written, and of those that are to be removed None."""
        changed, self._changed = self._changed, {}
        return {each: record_of(self._works[each]) if each in self._works else None for each in changed}

    # -- a connection -------------------------------------------------------------------------------------------------

    def opened(self) -> Frame:
        """Returns the first frame of a connection."""
        capabilities = capabilities_of(self.registration, self._details, max_workloads=self._offered)
        register = claw.Register(
            node_id=self._node_id, name=self._name, capabilities=capabilities, protocol_version=PROTOCOL_VERSION
        )
        return write_to_gateway(register, self._form)

    def closed(self) -> None:
        """Takes that the connection is gone: what is not known to be heard is told over the next one."""
        self._outbox.close()
        for work in self._works.values():
            work.unsent()

    @property
    def registered(self) -> bool:
        """Whether the gateway has taken this machine over this connection."""
        return self._outbox.is_open

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that nothing more should be read."""
        return self._outbox.is_congested

    def due_s(self) -> float | None:
        """Returns in how many seconds there is something to send; None before the gateway has taken this machine."""
        return self._outbox.due_s()

    def take(self) -> list[Frame]:
        """Returns the next frames to send, in order; [] where nothing is due."""
        now = self._now()
        reading = self._telemetry and metrics_of(self._node_id, self._telemetry, self.registration.capacity, now)
        frames = [write_to_gateway(message, self._form) for message in self._outbox.take(reading or None)]
        for word in self._outbox.overheard():
            self._on_heard(word)
        return frames

    # -- what the gateway says ----------------------------------------------------------------------------------------

    def received(self, frame: Frame) -> list[Action]:
        """Takes a frame; returns what it asks of the machine. What cannot be read is logged, and changes nothing."""
        try:
            message, _ = read_from_gateway(frame)
        except claw.ProtoError as error:
            _log.warning("a word of the gateway not understood", extra={"reason": str(error)})
            return []
        if isinstance(message, claw.Registered):
            return self._on_registered(message)
        if not self._outbox.is_open:
            _log.warning("a word of the gateway before it took us", extra={"kind": type(message).__name__})
            return []
        return self._acted_on(message)

    def _acted_on(self, message: AnyGatewayMessage) -> list[Action]:
        actions: Sequence[Action] = ()
        match message:
            case claw.HeartbeatAck():
                for word in self._outbox.acknowledged():
                    self._on_heard(word)
            case claw.DeployWorkload():
                actions = self._on_deploy(message.workload)
            case claw.StopWorkload():
                actions = self._on_stop(message.workload_id, force=message.force)
            case claw.GetWorkloadStatus():
                self._on_asked(message.workload_id)
            case claw.UpdateConfig():
                actions = self._on_config(message.config)
            case claw.Ping():
                self._outbox.pinged()
            case claw.Shutdown():
                self.leave(words(message.reason), stop=False)  # what comes right after it is not taken
                actions = [Leave(reason=words(message.reason), graceful=message.graceful)]
            case _:
                raise AssertionError("a document's connection has a document's messages")
        return list(actions)

    def _on_registered(self, message: claw.Registered) -> list[Action]:
        self._max_workloads = self._offered  # as it has registered; what else was wanted of it before is no more
        self._outbox.set_intervals(message.heartbeat_interval_secs, message.metrics_interval_secs)
        if not self._outbox.is_open:
            self._outbox.open()
            self._tell_inventory()
        return [] if message.config is None else self._on_config(message.config)

    def _tell_inventory(self) -> None:
        """Tells everything that is here: what was not heard step by step, and where all else stands."""
        now = self._now()
        for work in self._works.values():
            self._outbox.say(Word(update, work, step=True) for update in work.untold)
            if not work.untold:
                self._say(work.update(now))
        oldest_s = self._clock.monotonic() - _RETOLD_S
        for ended in self._ended.values():
            if ended.at_s >= oldest_s:
                self._say(ended.update)

    def _on_heard(self, word: Word) -> None:
        work = word.work
        assert work is not None, "what is waited for is of a workload"
        if word.log_bytes:
            work.log_heard = max(work.log_heard, word.log_bytes)
            self._changed[work.id] = None
        if word.step and work.untold:
            work.untold.popleft()
        if work.state.is_terminal and not work.untold:
            self._remember(work.update(self._now(), work.told_at_end))
            self._forget(work)

    def _on_deploy(self, workload: claw.Workload) -> list[Action]:
        if workload.id in self._works:
            return []
        if workload.id in self._ended:
            self._say(self._ended[workload.id].update)
            return []
        work = Work(workload=workload)
        try:
            order = self._admitted(work)
        except ArcrayError as error:
            _log.info("workload refused", extra={"workload_id": workload.id, "reason": str(error)})
            self._works[workload.id] = work
            self._fail(work, str(error))
            return []
        self._works[workload.id] = work
        self._changed[workload.id] = None
        return [order]

    def _admitted(self, work: Work) -> StartWorkload:
        """Returns the order that starts a workload, which has its slice of the machine then.

        Raises:
            ArcrayError: it cannot run here now; says why.
        """
        if self._leaving:
            raise ConflictError(f"this node is leaving: {self._leaving}")
        if not self.registration.capabilities.containers:
            raise ResourceExhaustedError("this node has no container engine now")
        if self.running >= self._max_workloads:
            raise ResourceExhaustedError(f"this node is full: {self._max_workloads} workloads run")
        spec = work.workload.spec
        container_of(spec)
        held = [each.allocation for each in self._works.values() if each.occupies]
        demand, named = demand_of(spec), work.workload.status.gpu_ids
        work.allocation = allocate(demand, named, self.registration.capacity, held)
        return order_of(work.workload, work.attempt, work.allocation, self._published(work))

    def _published(self, work: Work) -> Sequence[PortMapping]:
        taken = {port for each in self._works.values() if each is not work and each.occupies for port in each.ports}
        ports = published(work.workload.spec.ports, lambda port: port not in taken and self._is_free(port))
        work.ports = frozenset(port.host_port for port in ports if port.host_port is not None)
        return ports

    def _on_stop(self, workload_id: claw.WorkloadId, *, force: bool) -> list[StopAttempt]:
        work = self._works.get(workload_id)
        if work is not None:
            if not work.occupies:
                return []
            if WorkloadState.STOPPING in TRANSITIONS[work.state]:
                work.state = WorkloadState.STOPPING  # which is the gateway's own word
            return self._stopped(work, 0.0 if force else _STOP_GRACE_S)
        if workload_id not in self._ended:
            message = "there is no such workload here"
            self._remember(
                claw.WorkloadUpdate(
                    workload_id=workload_id, state=WorkloadState.STOPPED, message=message, timestamp=self._now()
                )
            )
        self._say(self._ended[workload_id].update)
        return []

    def _stopped(self, work: Work, grace_s: float) -> list[StopAttempt]:
        work.stop_asked = True
        self._changed[work.id] = None
        if work.restart_at_s is not None:
            work.restart_at_s = None
            state = WorkloadState.FAILED if work.evicted else WorkloadState.STOPPED
            work.finish = Finish(state=state, message="it ended, and is not started again")
            return []
        return [StopAttempt(workload_id=WorkloadId(work.id), attempt=work.attempt, grace_s=grace_s)]

    def _on_asked(self, workload_id: claw.WorkloadId) -> None:
        work = self._works.get(workload_id)
        if work is not None:
            self._say(work.update(self._now()))
            return
        if workload_id in self._ended:
            self._say(self._ended[workload_id].update)

    def _on_config(self, config: claw.NodeConfig) -> list[Action]:
        self._outbox.set_intervals(config.heartbeat_interval_secs, config.metrics_interval_secs)
        if config.max_concurrent_workloads is not None:
            self._max_workloads = config.max_concurrent_workloads
        return [] if config.log_level is None else [SetLogLevel(level=config.log_level)]

    # -- parts --------------------------------------------------------------------------------------------------------

    def _go(self, work: Work, state: WorkloadState, message: str = "") -> None:
        told = work.go(state, self._now(), message)
        self._changed[work.id] = None
        self._outbox.say(Word(update, work, step=True) for update in told)

    def _fail(self, work: Work, message: str) -> None:
        work.finish = Finish(state=WorkloadState.FAILED, message=message)
        self.finish(work)

    def _say(self, update: claw.WorkloadUpdate) -> None:
        self._outbox.say([Word(update)])

    def _of(self, workload_id: WorkloadId, attempt: int) -> Work | None:
        work = self._works.get(claw.WorkloadId(workload_id))
        return work if work is not None and work.attempt == attempt and work.occupies else None

    def _forget(self, work: Work) -> None:
        self._works.pop(work.id, None)
        self._changed[work.id] = None

    def _remember(self, update: claw.WorkloadUpdate) -> None:
        self._ended[update.workload_id] = _Ended(update, self._clock.monotonic())
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _now(self) -> claw.Timestamp:
        return claw.Timestamp.of(self._clock.now())
