"""The scheduler's processes: started, killed at any moment, and taken over while they still believe to be in charge.

A killed process says nothing more and takes nothing more, from that moment; what it had in memory is gone. A
transaction that its database was working on may still be done. Its successor knows only the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from arcray.config import SchedulerSettings
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import NodeDriver
from arcray.core.queries import Query
from arcray.testing.node_fakes import MemoryBlobs
from arcray.testing.plane import KEEP_ALL
from arcray.testing.simulation.build import Build
from arcray.testing.simulation.clock import UnsteadyClock
from arcray.testing.simulation.disk import Disk
from arcray.testing.simulation.trace import Trace
from arcray.testing.simulation.watch import Watch

__all__ = ["Central"]

_EVERYTHING: Final = frozenset(Topic)
_START_AGAIN_S: Final = 0.5


class _Process:
    """One life of the scheduler."""

    def __init__(self, number: int, plane: Plane, journal: Journal) -> None:
        self.name = f"scheduler {number}"
        self.plane = plane
        self.journal = journal
        self.dead = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None


class _Wire:
    """A driver as one process has it: a dead process delivers nothing."""

    def __init__(self, driver: NodeDriver, watch: Watch) -> None:
        self.process: _Process | None = None
        self._driver = driver
        self._watch = watch

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        assert self.process is not None
        if self.process.dead.is_set():
            raise UnavailableError("this process is dead")
        self._watch.ordered(node_id, orders)
        await self._driver.deliver(node_id, address, epoch, orders)


class Central:
    """Where the scheduler is now.

    Args:
        driver: how nodes are reached.
    """

    def __init__(
        self,
        *,
        build: Build,
        policy: ClusterPolicy,
        settings: SchedulerSettings,
        driver: NodeDriver,
        disk: Disk,
        clock: UnsteadyClock,
        watch: Watch,
        trace: Trace,
    ) -> None:
        self.blobs = MemoryBlobs()
        self._build = build
        self._policy = policy
        self._settings = settings
        self._driver = driver
        self._disk = disk
        self._clock = clock
        self._watch = watch
        self._trace = trace
        self._count = 0
        self._process: _Process | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def plane(self) -> Plane | None:
        """The plane of the present process; None while there is none, or it cannot go on."""
        process = self._process
        return None if process is None or process.dead.is_set() else process.plane

    async def start(self) -> None:
        """Starts a process, again and again until it could read the rows."""
        while True:
            process = self._make()
            try:
                await process.plane.start()
            except ArcrayError as error:
                self._trace.say(process.name, f"cannot start: {error}")
                await asyncio.sleep(_START_AGAIN_S)
            else:
                break
        self._trace.say(process.name, "started")
        self._watch.recovered(process.plane)
        process.reader = asyncio.ensure_future(self._read(process))
        self._process = process

    def kill(self) -> None:
        """Kills the present process."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)

    async def take_over(self, overlap_s: float) -> None:
        """Starts a successor while the present process goes on, unaware, for a while."""
        before = self._process
        await self.start()
        if before is not None:
            await asyncio.sleep(overlap_s)
            self._kill(before)

    async def ask(self, commands: Sequence[Command], told: Callable[[Command, object], None]) -> list[object]:
        """Hands commands to the present process.

        Args:
            told: called with each reply at the moment at which the process gives it.

        Raises:
            UnavailableError: there is no process, or it died before it had answered everything.
        """
        process = self._process
        if process is None:
            raise UnavailableError("no scheduler")
        replies = process.plane.begin(commands)
        for command, reply in zip(commands, replies, strict=True):
            reply.add_done_callback(partial(self._reply, process, command, told))
        death = asyncio.ensure_future(process.dead.wait())
        answers = asyncio.gather(*replies)
        first: set[asyncio.Future[Any]] = {death, answers}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
        if process.dead.is_set() or not answers.done():
            answers.add_done_callback(_ignore)
            answers.cancel()
            raise UnavailableError("the scheduler died")
        return list(answers.result())

    async def look(self, query: Query) -> None:
        """Asks the present process, and has the answer checked."""
        process = self._process
        if process is None:
            return
        asked = self._watch.asking()
        answer: object
        try:
            answer = await process.plane.query(query)
        except ArcrayError as error:
            answer = error
        if not process.dead.is_set():
            self._watch.answered(query, answer, asked)

    async def close(self) -> None:
        """Ends everything."""
        self.kill()
        while self._closing:
            await asyncio.wait(self._closing)

    def _make(self) -> _Process:
        self._count += 1
        journal = self._disk.journal()
        wire = _Wire(self._driver, self._watch)
        drivers: Mapping[str, NodeDriver] = {"simulated": wire}
        plane = self._build.plane(
            policy=self._policy,
            journal=journal,
            drivers=drivers,
            blobs=self.blobs,
            clock=self._clock,
            settings=self._settings,
            retention=KEEP_ALL,
            rules=self._build.rules,
        )
        process = wire.process = _Process(self._count, plane, journal)
        return process

    def _kill(self, process: _Process) -> None:
        self._trace.say(process.name, "is killed")
        process.dead.set()
        self._watch.died(process.plane)
        burial = asyncio.ensure_future(self._bury(process))
        self._closing.add(burial)
        burial.add_done_callback(self._closing.discard)

    async def _bury(self, process: _Process) -> None:
        """Ends the tasks of a dead process and closes its files, which the kernel would do."""
        tasks = [task for task in (process.plane._main, process.reader) if task is not None]  # noqa: SLF001
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(ArcrayError):
            await process.journal.close()

    async def _read(self, process: _Process) -> None:
        with contextlib.suppress(ArcrayError):
            async for batch in process.plane.events(_EVERYTHING):
                if process.dead.is_set():
                    return
                self._watch.published(process.plane, batch)

    @staticmethod
    def _reply(
        process: _Process, command: Command, told: Callable[[Command, object], None], done: asyncio.Future[object]
    ) -> None:
        if not process.dead.is_set() and not done.cancelled():
            told(command, done.result())


def _ignore(answers: asyncio.Future[list[object]]) -> None:
    if not answers.cancelled():
        answers.exception()
