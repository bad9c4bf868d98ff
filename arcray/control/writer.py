"""The writer: memory, and which outcome waits for what.

*Write-ahead truth.* Events apply to memory at once. Replies (refusals too), orders and publication wait for the commit
that covers what they state. What is volatile by nature (readings, the dispatch of a request whose sender waits) sends
its orders at once; publication keeps the order applied in any case.

When a commit fails, memory is taken back to what is on disk for certain, everyone who waited is told, requests in
flight are failed, and writes are refused until memory has been rebuilt from the rows (what became of the commit may be
known there alone) and a probe write succeeds. Reads and heartbeats go on meanwhile, even where the rows cannot be read,
so that an outage of the database costs no node its lease. When a rule trips over its own assertion the same is done,
but memory may then be half changed, so that reads wait for the rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from arcray.control.batch import Batch, Reply, answer, image
from arcray.control.committer import Committer, as_refusal
from arcray.control.dispatch import Dispatcher
from arcray.control.event_log import EventLog, Tagged
from arcray.control.journal import FencedError, Journal
from arcray.control.loops import FaultError, contain, contain_async
from arcray.control.recovery import as_on_disk, load, readings
from arcray.control.topics import topic_of
from arcray.control.waiters import Waiters
from arcray.core.answers import workload_view
from arcray.core.before import Before
from arcray.core.cluster import Cluster
from arcray.core.commands import Command, ReportModels, ReportTelemetry
from arcray.core.errors import ArcrayError, BusyError, UnavailableError
from arcray.core.events import (
    Event,
    NodeDetached,
    NodeHealthChanged,
    ReservationEnded,
    WorkloadFinished,
    WorkloadSettled,
)
from arcray.core.ids import ReservationId, WorkloadId
from arcray.core.orders import NodeOrder, RunInference
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import Clock
from arcray.core.queues import Queue, QueueReading
from arcray.core.turn import Outcome

__all__ = ["Writer"]

_log = logging.getLogger(__name__)

_PROBE_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_RULES_FIRST_S: Final = 5.0  # a waiter has that much more than the rules let a request take, so that they answer first
_SIGNS_OF_LIFE: Final = frozenset({ReportTelemetry, ReportModels})  # taken while writes are refused


class Writer:
    """Memory and its batches. Everything here runs on one loop.

    Args:
        limit: replies that may wait for a commit; more commands are refused, but for those of this process itself.
        batch_limit: events in one batch.
        changed: called after anything was handled.
        rules: what decides.

    Attributes:
        cluster: memory.
        readable: set while memory is what is on disk plus what is about to be committed.
        rebuilt: whether the rows have been read since the last failure. Until then memory may lack a commit that came
            through and that nobody was told of.
        ended: why nothing is taken or answered any more; None while it is.
    """

    def __init__(
        self,
        policy: ClusterPolicy,
        journal: Journal,
        *,
        log: EventLog,
        dispatch: Dispatcher,
        clock: Clock,
        limit: int,
        batch_limit: int,
        changed: Callable[[], None],
        rules: type[Cluster] = Cluster,
    ) -> None:
        self.cluster = rules(policy, clock.now())
        self.commits = Committer(
            journal,
            image=lambda batch: image(batch.events, batch.before, self.cluster.state),
            release=self._release,
            failed=self._failed,
            limit=batch_limit,
        )
        self.waiters = Waiters(limit=limit, term_s=policy.longest_inference.total_seconds() + _RULES_FIRST_S)
        self.readable = asyncio.Event()
        self.ended: ArcrayError | None = None
        self._broken: ArcrayError | None = UnavailableError("the scheduler is starting")
        self.rebuilt = True  # since the last failure
        self._policy = policy
        self._journal = journal
        self._events = log
        self._dispatch = dispatch
        self._clock = clock
        self._limit = limit
        self._batch_limit = batch_limit
        self._changed = changed
        self._rules = rules
        self._untold: tuple[NodeOrder, ...] = ()

    @property
    def refusal(self) -> ArcrayError | None:
        """Why writes are refused now; None while they are taken."""
        return self.ended or self._broken

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns who and what waits for a commit or for an end."""
        commits, limit = self.commits, self._limit
        return (
            QueueReading(queue=Queue.COMMANDS, length=commits.waiting, limit=limit),
            QueueReading(queue=Queue.CALLERS, length=len(self.waiters), limit=limit),
            QueueReading(queue=Queue.BATCH, length=commits.gathered, limit=self._batch_limit),
        )

    async def recover(self) -> None:
        """Fills memory from the rows.

        Raises:
            InternalError: a row cannot be read; names it.
            UnavailableError: the database cannot be read.
        """
        self.cluster = await self._load()
        self._untold = self.cluster.undelivered()

    def resume(self) -> None:
        """Takes commands, from memory that is right, and tells nodes again what they may not have heard."""
        self._broken = None
        self.readable.set()
        for order in self._untold:
            self._dispatch.put(order, again=True)
        self._untold = ()
        self._changed()

    def end(self, error: ArcrayError) -> None:
        """Takes and answers nothing any more, and tells everyone who waits why."""
        self.ended = error
        self.commits.give_up(error)
        self.waiters.fail(error)
        self._events.end(error)
        self.readable.set()  # whoever waits for it finds ``ended``

    def handle(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Handles commands in order, and refuses those that come while as many replies wait as may."""
        now = self._clock.now()
        for command, reply in zip(commands, replies, strict=True):
            refusal = self._full() or self._refuses(command)
            if refusal is None:
                self._handle(command, reply, now)
            else:
                answer(reply, refusal)
        self._changed()

    def handle_own(self, commands: Sequence[Command]) -> None:
        """Handles in order what this process itself has found out or wants to know, however many replies wait.

        Nobody would say it again; there is no more of it than of what it is about. While writes are refused it is
        dropped: the memory that is rebuilt finds it out anew.
        """
        now = self._clock.now()
        for command in commands:
            if self._refuses(command) is None:
                self._handle(command, None, now)
        self._changed()

    def reply(self, reply: Reply | None, value: object) -> None:
        """Answers once everything applied so far is on disk."""
        if reply is None:
            return
        tail = self.commits.tail
        if tail is None:
            answer(reply, value)
        else:
            tail.replies.append((reply, value))

    def publish(self, events: Sequence[Tagged]) -> None:
        """Publishes volatile events behind the durable ones that were applied before them."""
        tail = self.commits.tail
        if tail is None:
            self._events.publish(events)
        else:
            tail.published += events

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _handle(self, command: Command, reply: Reply | None, now: datetime) -> None:
        self.cluster.state.before = self.commits.open.before
        outcome = contain(self.cluster.handle, command, now)
        if isinstance(outcome, Outcome):
            self._take(outcome, reply)
            return
        if isinstance(outcome, FaultError):
            self._distrust(outcome)
        self.reply(reply, outcome)

    def _refuses(self, command: Command) -> ArcrayError | None:
        refusal = self.ended or self._broken
        if refusal is not None and (self.ended or type(command) not in _SIGNS_OF_LIFE or not self.readable.is_set()):
            return refusal
        return None

    def _full(self) -> ArcrayError | None:
        if self.commits.waiting < self._limit:
            return None
        return BusyError(f"{self._limit} commands are being handled already")

    def _take(self, outcome: Outcome, reply: Reply | None) -> None:
        events = outcome.events
        wanted = self._events.wanted
        tagged: list[Tagged] = []
        if wanted:
            state = self.cluster.state
            tagged = [(topic, event) for event in events if (topic := topic_of(event, state)) in wanted]
        durable = [event for event in events if event.durable]
        if outcome.awaits is not None:
            self._await(outcome.awaits, reply, durable)
            reply = None
        if durable:
            self._take_durable(outcome, durable, tagged, reply)
            return
        for order in outcome.orders:
            self._dispatch.put(order)
        if tagged:
            self.publish(tagged)
        self.reply(reply, outcome.reply)

    def _take_durable(self, outcome: Outcome, durable: list[Event], tagged: list[Tagged], reply: Reply | None) -> None:
        batch = self.commits.open
        batch.events += durable
        batch.published += tagged
        for event in durable:
            if type(event) is WorkloadFinished:
                view = None
                for waiting in self.waiters.take(event.workload_id):
                    view = view or workload_view(self.cluster.state.workloads[event.workload_id])
                    batch.replies.append((waiting, view))
        for order in outcome.orders:
            if self._is_volatile(order):
                self._dispatch.put(order)
            else:
                batch.orders.append(order)
        if reply is not None:
            batch.replies.append((reply, outcome.reply))
        self.commits.commit()

    def _await(self, workload_id: WorkloadId, reply: Reply | None, durable: Sequence[Event]) -> None:
        if reply is None:
            return
        workload = self.cluster.state.workloads[workload_id]
        ends_now = any(type(event) is WorkloadFinished and event.workload_id == workload_id for event in durable)
        if workload.phase.terminal and not ends_now:
            self.reply(reply, workload_view(workload))
        else:
            self.waiters.add(workload_id, reply, self._clock.monotonic())

    def _is_volatile(self, order: NodeOrder) -> bool:
        """Whether nothing durable is known of what is ordered: the dispatch of a request whose sender waits."""
        if type(order.order) is not RunInference:
            return False
        return self.cluster.state.workloads[order.order.workload_id].spec.waiting

    def _release(self, batch: Batch) -> None:
        """Lets out what waited for a batch that is on disk."""
        batch.settle()
        if batch.published:
            self._events.publish(batch.published)
        for order in batch.orders:
            self._dispatch.put(order)
        finished: list[WorkloadId] = []
        ended: list[ReservationId] = []
        settled: list[WorkloadId] = []
        for event in batch.events:
            match event:
                case WorkloadFinished():
                    finished.append(event.workload_id)
                case ReservationEnded():
                    ended.append(event.reservation_id)
                case WorkloadSettled():
                    settled.append(event.workload_id)
                case NodeHealthChanged() | NodeDetached():
                    self._dispatch.forget_detached(event.node_id)
                case _:
                    pass
        if finished or settled:
            self.cluster.retire(finished, settled)
        if ended:
            self.cluster.retire_reservations(ended)

    # -- failure -------------------------------------------------------------------------------------------------

    def _distrust(self, fault: FaultError) -> None:
        self._broken = UnavailableError("memory is being rebuilt after a fault; see the log")
        self.readable.clear()
        self.commits.distrust(fault)

    async def _failed(self, error: ArcrayError, before: Before) -> None:
        """Puts memory right after a failed commit or a fault; returns once writing works again, or never will."""
        _log.error("commit failed", extra={"reason": error.message})
        self._broken = as_refusal(error)
        self._take_back(error, before)
        self.rebuilt = False
        self.waiters.fail(self._broken)
        failures = 0
        while not isinstance(error, FencedError):
            problem = await self._mend()
            if problem is None:
                _log.warning("writing again", extra={"failures": failures})
                self.resume()
                return
            error = problem
            self._broken = as_refusal(error)
            await self._clock.sleep(_PROBE_BACKOFF_S[min(failures, len(_PROBE_BACKOFF_S) - 1)])
            failures += 1
        self.end(error)

    def _take_back(self, error: ArcrayError, before: Before) -> None:
        """Takes memory back to what is on disk for certain; reads go on from there until the rows can be read."""
        if self.readable.is_set() and not isinstance(error, FaultError):
            known = contain(as_on_disk, self.cluster, before, self._policy, self._clock.now())
            if isinstance(known, Cluster):
                self._adopt(known)
                return
        self.readable.clear()  # a fault may have left more behind than its events say

    async def _mend(self) -> ArcrayError | None:
        """Rebuilds memory from the rows unless it has been, and probes; returns what is still wrong."""
        if not (self.rebuilt and self.readable.is_set()):
            rebuilt = await contain_async(self._load(), "recovery")
            if isinstance(rebuilt, ArcrayError):
                return rebuilt
            assert self._broken is not None, "writes are refused until this is done"
            self.commits.give_up(self._broken)  # what the memory decided that is replaced now, which will be again
            self._adopt(rebuilt)
            self.rebuilt = True
        return await contain_async(self._journal.probe(), "probe")

    async def _load(self) -> Cluster:
        return await load(self._journal, self._policy, self._clock.now(), self._rules)

    def _adopt(self, rebuilt: Cluster) -> None:
        before, self.cluster = self.cluster, rebuilt
        rebuilt.state.started_at = before.state.started_at
        rebuilt.state.inference = before.state.inference
        self._untold = rebuilt.undelivered()  # now: the readings below may place requests, and that is not on disk yet
        self.readable.set()
        self._dispatch.keep_only(lambda workload_id: workload_id in rebuilt.state.workloads)
        self.handle_own(readings(before, rebuilt))
        self._events.mark_gap()
