"""The plane: ``core.ports.ControlPlane`` in process.

What lives here: the port, the life of the shell, and its loops. What does not: what waits for what (writer), decisions
(core), SQL (journal), deliveries (dispatch).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from arcray.config import SchedulerSettings
from arcray.control import history
from arcray.control.batch import Reply, answer
from arcray.control.dispatch import Dispatcher
from arcray.control.event_log import EventLog, EventReader
from arcray.control.journal import Journal
from arcray.control.loops import contain, contain_async, forever
from arcray.control.simulations import Simulations
from arcray.control.topics import topic_of
from arcray.control.writer import Writer
from arcray.core.commands import Command, ReportEnd, Schedule, SubmitWorkload, Tick
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.node import Node
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import BlobStore, Clock, NodeDriver
from arcray.core.queries import Answer, GetWorkload, ListWorkloads, Query, Simulate

__all__ = ["Plane"]

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.05
_STOP_PATIENCE_S: Final = 10.0
_QUERY_TIMEOUT_S: Final = 30.0


class _StopError(Exception):
    """Ends the task group of a plane."""


class Plane:
    """The control plane of one cluster.

    Args:
        policy: what the rules go by.
        journal: not yet open; the plane opens and closes it.
        drivers: how nodes are reached, by the driver name of their registration.
    """

    def __init__(
        self,
        *,
        policy: ClusterPolicy,
        journal: Journal,
        drivers: Mapping[str, NodeDriver],
        blobs: BlobStore,
        clock: Clock,
        settings: SchedulerSettings,
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._clock = clock
        self._log = EventLog(settings.event_buffer)
        self._dispatch = Dispatcher(
            drivers, node=self._node, refuse=self._refuse, clock=clock, limit=settings.max_queued_orders
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
        )
        self._simulations = Simulations()
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
        self._writer.end(UnavailableError("the scheduler has stopped"))
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

    def begin(self, commands: Sequence[Command]) -> list[Reply]:
        """Handles commands in order.

        Returns:
            One future per command. It never raises: its result is the reply, or the ``ArcrayError`` that refused the
            command, and comes once everything it states is on disk.
        """
        loop = asyncio.get_running_loop()
        replies: list[Reply] = [loop.create_future() for _ in commands]
        state = self._writer.cluster.state
        repeats = state.forgotten_until is not None and any(
            history.may_repeat(command, state) or history.needs_row(command, state) for command in commands
        )
        if repeats and self._writer.refusal is None:
            assert self._group is not None, "started"
            self._group.create_task(self._begin_after_lookup(commands, replies))
        else:
            self._writer.handle(commands, replies)
        return replies

    async def submit(self, commands: Sequence[Command]) -> list[object]:
        """Handles commands in order; see ``core.ports.ControlPlane``."""
        return [await reply for reply in self.begin(commands)]

    async def query(self, query: Query) -> Answer:
        """Answers from memory, and from the rows where memory has let go.

        Raises:
            NotFoundError: the thing asked for does not exist, or not for that account.
            UnavailableError: memory is being rebuilt, the rows cannot be read, or the scheduler has ended.
        """
        try:
            async with asyncio.timeout(_QUERY_TIMEOUT_S):
                return await self._query(query)
        except TimeoutError:
            raise UnavailableError("the database does not answer") from None

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
            answered = contain(cluster.answer, query, self._clock.now())
            awaited = history.awaited_by_someone(cluster.state, query) if isinstance(query, ListWorkloads) else ()
            tail = self._writer.commits.tail
            if tail is None or await tail.on_disk():
                break  # else what was answered never came true, and memory has been rebuilt
        if isinstance(query, GetWorkload) and isinstance(answered, NotFoundError):
            return await history.finished_workload(self._journal, query)
        if isinstance(answered, ArcrayError):
            raise answered
        if isinstance(query, ListWorkloads) and cluster.state.forgotten_until is not None:
            return await history.workload_page(self._journal, query, awaited)
        return answered

    async def _begin_after_lookup(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Handles commands some of which are about what memory has let go of: that is recalled from the rows."""
        for command, reply in zip(commands, replies, strict=True):
            wanted = history.needs_row(command, self._writer.cluster.state)
            if wanted is not None:
                found = await contain_async(self._journal.workload(wanted), "lookup")
                if isinstance(found, ArcrayError):
                    answer(reply, found)
                    continue
                if found is not None and found.phase.terminal:
                    self._writer.cluster.recall(found)
            if history.may_repeat(command, self._writer.cluster.state):
                assert isinstance(command, SubmitWorkload)
                lookup = history.earlier_submission(self._journal, command.spec)
                earlier = await contain_async(lookup, "lookup")  # a task of the group must not raise
                if isinstance(earlier, ArcrayError):
                    answer(reply, earlier)
                    continue
                if earlier is not None and earlier.phase.terminal:
                    self._writer.cluster.recall(earlier)
            self._writer.handle([command], [reply])

    # -- loops ---------------------------------------------------------------------------------------------------

    async def _run(self, started: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._dispatch.start(group)
                for turn in (self._writer.commits.turn, self._round, self._tick):
                    group.create_task(forever(turn, self._clock, turn.__qualname__))
                self._writer.resume()
                started.set()
                await self._stopping.wait()
                raise _StopError  # noqa: TRY301 - how a task group is told to end its tasks
        except* _StopError:
            pass

    async def _round(self) -> None:
        """Runs scheduling rounds at their own pace: one, then whatever else is ready, then the next."""
        await self._round_wanted.wait()
        self._round_wanted.clear()
        if self._writer.refusal is None and self._writer.cluster.needs_round:
            self._writer.handle([Schedule()], [None])
            await asyncio.sleep(0)

    async def _tick(self) -> None:
        await self._clock.sleep(_TICK_S)
        self._writer.waiters.expire(self._clock.monotonic())
        due = self._writer.cluster.next_due()
        if due is not None and due <= self._clock.now() and self._writer.refusal is None:
            self._writer.handle([Tick()], [None])

    def _changed(self) -> None:
        if self._writer.cluster.needs_round:
            self._round_wanted.set()

    def _node(self, node_id: NodeId) -> Node | None:
        return self._writer.cluster.state.nodes.get(node_id)

    def _refuse(self, report: ReportEnd) -> None:
        self._writer.handle([report], [None])
