"""The plane: ``core.ports.ControlPlane`` in process.

What lives here: the port, the life of the shell, and its loops. What does not: what waits for what (writer), decisions
(core), SQL (journal), deliveries (dispatch).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from arcray.config import RetentionSettings, SchedulerSettings
from arcray.control import history
from arcray.control.audit import read_audit
from arcray.control.batch import Reply
from arcray.control.dispatch import Dispatcher
from arcray.control.event_log import EventLog, EventReader
from arcray.control.journal import Journal
from arcray.control.letting_go import LettingGo
from arcray.control.lookups import Lookups
from arcray.control.loops import contain, forever
from arcray.control.retention import RetainedBlobs, Retention, blobs_in_use
from arcray.control.simulations import Simulations
from arcray.control.steady import SteadyClock
from arcray.control.topics import topic_of
from arcray.control.writer import Writer
from arcray.core.audit_log import ReadAudit
from arcray.core.cluster import Cluster
from arcray.core.commands import Command, ReportEnd, ReportUndelivered, Schedule, Tick
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.node import Node
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import BlobStore, Clock, NodeDriver
from arcray.core.queries import (
    Answer,
    ExplainWorkload,
    FindLogin,
    GetAccount,
    GetNode,
    GetQueues,
    GetReservation,
    GetStatement,
    GetWorkload,
    ListWorkloads,
    Query,
    Queues,
)
from arcray.core.queues import Meter, Queue, QueueReading
from arcray.core.what_if import Simulate

__all__ = ["Plane"]

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.05
_STOOD_STILL_S: Final = 1.0  # a tick that comes so late: this process, or its machine, was stopped or starved
_HEAR_FIRST_S: Final = 1.0  # then what has come meanwhile is heard before anybody is found silent
_STOP_PATIENCE_S: Final = 10.0
_QUERY_TIMEOUT_S: Final = 30.0
_AUDIT_S: Final = 60.0


_OF_MEMORY: Final = frozenset({FindLogin, GetAccount, GetNode, GetWorkload})


class _Pending:
    """An answer that waits for a commit."""

    __slots__ = ("_answered", "_told")

    def __init__(self, answered: Answer | ArcrayError, told: Callable[[Answer | ArcrayError | None], None]) -> None:
        self._answered = answered
        self._told = told

    def done(self) -> bool:
        """Returns whether nobody waits any more, which is seen to where it is told."""
        return False

    def set_result(self, on_disk: bool, /) -> None:
        """Tells it, or that it did not come true."""
        self._told(self._answered if on_disk else None)


class _StopError(Exception):
    """Ends the task group of a plane."""


class Plane:
    """The control plane of one cluster.

    Args:
        policy: what the rules go by.
        journal: not yet open; the plane opens and closes it.
        drivers: how nodes are reached, by the driver name of their registration.
        clock: of the machine; the plane goes by a steady one, see ``steady``.
        rules: what decides.
        meters: read the queues of this process that belong to others.

    Attributes:
        letting_go: takes out of memory what retention deletes.
    """

    def __init__(
        self,
        *,
        policy: ClusterPolicy,
        journal: Journal,
        drivers: Mapping[str, NodeDriver],
        blobs: RetainedBlobs,
        clock: Clock,
        settings: SchedulerSettings,
        retention: RetentionSettings,
        rules: type[Cluster] = Cluster,
        meters: Sequence[Meter] = (),
    ) -> None:
        self._settings = settings
        self._meters = meters
        self._journal = journal
        self._blobs = blobs
        self._clock = clock = SteadyClock(clock)
        self._log = EventLog(settings.event_buffer)
        self._dispatch = Dispatcher(
            drivers, node=self._node, report=self._report, clock=clock, limit=settings.max_queued_orders
        )
        self._writer = Writer(
            policy,
            journal,
            log=self._log,
            dispatch=self._dispatch,
            clock=clock,
            limit=settings.max_commands,
            batch_limit=settings.commit_batch,
            changed=self._changed,
            rules=rules,
        )
        self._rows = asyncio.Lock()  # of ended workloads: either looked up or deleted
        self._lookups = Lookups(
            journal,
            cluster=lambda: self._writer.cluster,
            handle=self._writer.handle,
            limit=settings.max_commands,
            rows=self._rows,
        )
        self.letting_go = LettingGo(self._writer, self._rows)
        self._retention = Retention(
            journal,
            blobs,
            clock,
            retention,
            writing=lambda: self._writer.refusal is None,
            memory=self.letting_go,
            in_use=lambda: blobs_in_use(self._writer.cluster.state),
        )
        self._kept = retention
        self._simulations = Simulations()
        self._put_off = False  # the last tick was
        self._round_wanted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the journal, recovers from its rows, tells nodes again what they may not have heard, and serves.

        Raises:
            InternalError: a row cannot be read; names it.
            UnavailableError: the database cannot be reached, written, read or migrated.
        """
        try:
            await self._journal.open()
            await self._writer.recover()
            self._clock.reach(self._writer.cluster.now)
        except ArcrayError:
            await self._journal.close()
            raise
        started = asyncio.Event()
        self._main = asyncio.create_task(self._run(started), name="plane")
        await started.wait()

    async def stop(self) -> None:
        """Commits what was accepted, answers everyone, and closes the journal."""
        main, self._main = self._main, None
        if main is None:
            return
        if self._writer.refusal is None:
            self._writer.ended = UnavailableError("the scheduler is stopping")
            try:
                async with asyncio.timeout(_STOP_PATIENCE_S):
                    await self._writer.commits.idle()
            except TimeoutError:
                _log.error("stopping with uncommitted work")
        stopped = UnavailableError("the scheduler has stopped")
        self._lookups.fail(stopped)
        self._writer.end(stopped)
        self._stopping.set()
        await main
        await self._journal.close()

    # -- the port ------------------------------------------------------------------------------------------------

    @property
    def blobs(self) -> BlobStore:
        """The blob store of this cluster."""
        return self._blobs

    @property
    def refusal(self) -> ArcrayError | None:
        """Why writes are refused now; None while they are taken. For readiness checks."""
        return self._writer.refusal

    def begin(self, commands: Sequence[Command]) -> list[asyncio.Future[object]]:
        """Handles commands in order.

        Returns:
            One future per command. It never raises: its result is the reply, or the ``ArcrayError`` that refused the
            command, and comes once everything it states is on disk.
        """
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[object]] = [loop.create_future() for _ in commands]
        self.take(commands, replies)
        return replies

    def take(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Handles commands in order, and answers as ``begin`` does, to replies of the caller's: one per command."""
        state = self._writer.cluster.state
        forgetful = state.forgotten_until is not None or state.books.forgetful or state.reservations.forgetful
        of_old = forgetful and any(history.may_be_of_old(each, state) for each in commands)
        if of_old and self._writer.refusal is None:
            self._lookups.add(commands, replies)
        else:
            self._writer.handle(commands, replies)

    async def submit(self, commands: Sequence[Command]) -> list[object]:
        """Handles commands in order; see ``core.ports.ControlPlane``."""
        return [await reply for reply in self.begin(commands)]

    async def query(self, query: Query) -> Answer:
        """Answers from memory, and from the rows where memory has let go; how long queues are, without waiting.

        Raises:
            NotFoundError: the thing asked for does not exist, or not for that account.
            UnavailableError: memory is being rebuilt, the rows cannot be read, or the scheduler has ended.
        """
        if isinstance(query, GetQueues):
            return Queues(readings=self._queues(), refusal="" if self.refusal is None else self.refusal.message)
        try:
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                return await self._query(query)
        except TimeoutError:
            raise UnavailableError("the database does not answer") from None

    def answer_soon(self, query: Query, told: Callable[[Answer | ArcrayError | None], None]) -> bool:
        """Answers one thing from memory once what it states is on disk, without a task: most of what is asked.

        Args:
            told: gets the answer, or None where it did not come true after all; then it is to be asked by ``query``.

        Returns:
            Whether ``told`` will be called, or was; else it is to be asked by ``query``.
        """
        if type(query) not in _OF_MEMORY or not self._writer.readable.is_set() or self._writer.ended is not None:
            return False
        answered = contain(self._writer.cluster.answer, query, self._clock.now())
        final = isinstance(answered, NotFoundError) and type(query) is not GetWorkload  # else the rows may have it
        if isinstance(answered, ArcrayError) and not final:
            return False
        tail = self._writer.commits.tail
        if tail is None:
            told(answered)
        else:
            tail.barriers.append(_Pending(answered, told))
        return True

    def events(self, topics: frozenset[Topic]) -> EventReader:
        """Subscribes; see ``core.ports.ControlPlane``."""
        reader = self._log.reader(topics)
        if self._writer.ended is not None:
            reader.fail(self._writer.ended)
        return reader

    def publish(self, events: Iterable[Event]) -> None:
        """Publishes volatile events that a shell knows of and core does not, such as ``LogAppended``."""
        state = self._writer.cluster.state
        self._writer.publish([(topic_of(event, state), event) for event in events])

    # -- answering -----------------------------------------------------------------------------------------------

    async def _query(self, query: Query) -> Answer:
        while True:
            await self._writer.readable.wait()
            if self._writer.ended is not None:
                raise self._writer.ended
            cluster = self._writer.cluster
            if isinstance(query, Simulate):
                return await self._simulations.run(cluster, query, self._clock.now())
            if isinstance(query, ListWorkloads) and not history.is_all_in_memory(cluster.state, query):
                return await history.workload_page(self._journal, cluster.state, query)
            answered = contain(cluster.answer, query, self._clock.now())
            tail = self._writer.commits.tail
            if tail is None or await tail.on_disk():
                break  # else what was answered never came true, and memory has been rebuilt
        if isinstance(answered, NotFoundError) and isinstance(query, ExplainWorkload | GetWorkload | GetReservation):
            return await history.of_ended(self._journal, query, self._kept, cluster.state, self._clock.now())
        if isinstance(answered, ArcrayError):
            raise answered
        if isinstance(query, GetStatement):
            return await self._journal.statement(query)
        if isinstance(query, ReadAudit):
            return await self._journal.read(partial(read_audit, query=query))
        return answered

    def _queues(self) -> tuple[QueueReading, ...]:
        settings, log = self._settings, self._log
        return (
            *self._writer.cluster.state.queues(),
            *self._writer.queues(),
            QueueReading(queue=Queue.LOOKUPS, length=len(self._lookups), limit=settings.max_commands),
            QueueReading(queue=Queue.ORDERS, length=self._dispatch.longest, limit=settings.max_queued_orders),
            QueueReading(queue=Queue.EVENTS, length=log.lag, limit=settings.event_buffer),
            *(reading for meter in self._meters for reading in meter()),
        )

    # -- loops ---------------------------------------------------------------------------------------------------

    async def _run(self, started: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._dispatch.start(group)
                turns = (
                    self._writer.commits.turn,
                    self._lookups.turn,
                    self._round,
                    self._tick,
                    self._audit,
                    self._retention.turn,
                )
                for turn in turns:
                    group.create_task(forever(turn, self._clock, turn.__qualname__))
                self._writer.resume()
                started.set()
                await self._stopping.wait()
                raise _StopError  # noqa: TRY301 - how a task group is told to end its tasks
        except* _StopError:
            pass

    async def _round(self) -> None:
        """Runs scheduling rounds at their own pace: one, then whatever else is ready, then the next.

        After one that found no place for anything, others have the loop for as long as it took: refusing work is not
        urgent, and may go on for as long as anything changes.
        """
        await self._round_wanted.wait()
        self._round_wanted.clear()
        if self._writer.refusal is None and self._writer.cluster.needs_round:
            pending, began = self._writer.cluster.state.pending, self._clock.monotonic()
            waiting = len(pending)
            self._writer.handle_own([Schedule()])
            took_s = self._clock.monotonic() - began
            await (self._clock.sleep(took_s) if took_s and len(pending) == waiting else asyncio.sleep(0))

    async def _tick(self) -> None:
        began_s = self._clock.monotonic()
        await self._clock.sleep(_TICK_S)
        late = self._clock.monotonic() - began_s > _STOOD_STILL_S
        self._put_off = late and not self._put_off  # once: a process that is stopped again and again must tick too
        if self._put_off:
            _log.warning("stood still", extra={"seconds": round(self._clock.monotonic() - began_s, 3)})
            await self._clock.sleep(_HEAR_FIRST_S)
            return
        self._writer.waiters.expire(self._clock.monotonic())
        due = self._writer.cluster.next_due()
        if due is not None and due <= self._clock.now() and self._writer.refusal is None:
            self._writer.handle_own([Tick()])

    async def _audit(self) -> None:
        """Counts the books anew now and then: the sum that is kept up would hide an error of its own."""
        await self._clock.sleep(_AUDIT_S)
        books = self._writer.cluster.state.books
        books.imbalance = books.audit()
        if books.imbalance:
            _log.error("the books do not balance", extra={"credits": books.imbalance})

    def _changed(self) -> None:
        if self._writer.cluster.needs_round:
            self._round_wanted.set()

    def _node(self, node_id: NodeId) -> Node | None:
        return self._writer.cluster.state.nodes.get(node_id)

    def _report(self, report: ReportEnd | ReportUndelivered) -> None:
        self._writer.handle_own([report])
