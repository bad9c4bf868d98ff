"""A whole control plane in this process, with simulated nodes: what tests of facades and agents talk to."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from arcray.config import RetentionSettings, SchedulerSettings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.core.commands import Command
from arcray.core.events import Topic
from arcray.core.ids import WorkloadId
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import Clock
from arcray.core.queries import GetWorkload
from arcray.core.workload import WorkloadView
from arcray.drivers.local import LocalDriver
from arcray.testing.simulated_node import SimulatedNode
from arcray.wire.asking import ask
from arcray.wire.attachments import DRIVER
from arcray.wire.system import SystemClock

__all__ = ["KEEP_ALL", "InProcessPlane", "in_process_plane"]

_MAX_BLOB_BYTES = 128 * 2**20


KEEP_ALL = RetentionSettings(  # the builders' times are long ago
    workloads_s=None, max_workloads=None, inference_s=None, max_inference=None, events_s=None, max_events=None,
    reservations_s=None, max_reservations=None, nodes_s=None, max_nodes=None, orphans_s=None,
)  # fmt: skip


class _DoneError(Exception):
    """Ends the tasks of the nodes."""


class InProcessPlane:
    """A started plane and what belongs to it. Made by ``in_process_plane``."""

    def __init__(self, plane: Plane, driver: LocalDriver, clock: Clock) -> None:
        self.plane = plane
        self.driver = driver
        self.clock = clock
        self.nodes: list[SimulatedNode] = []
        self._group: asyncio.TaskGroup | None = None

    async def serve(self, started: asyncio.Event, done: asyncio.Event) -> None:
        """Owns what nodes do, in a task of its own: a fixture may begin and end in different ones."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                started.set()
                await done.wait()
                raise _DoneError  # noqa: TRY301 - how a task group is told to end its tasks
        except* _DoneError:
            pass

    async def attach(self, node: SimulatedNode) -> SimulatedNode:
        """Has a node join, or join again; returns it."""
        assert self._group is not None
        self.driver.add(node.id, node)
        await node.join(self.plane, self.clock, self._group)
        if node not in self.nodes:
            self.nodes.append(node)
        return node

    async def ask(self, command: Command) -> Any:
        """Submits one command and returns its reply.

        Raises:
            ArcrayError: it was refused.
        """
        return await ask(self.plane, command)

    async def finished(self, workload_id: WorkloadId, timeout_s: float = 5.0) -> WorkloadView:
        """Waits for the end of a workload and returns it.

        Raises:
            TimeoutError: it did not end in time.
        """
        changes = self.plane.events(frozenset({Topic.WORKLOADS, Topic.INFERENCE}))
        async with asyncio.timeout(timeout_s):
            async for _ in changes:
                view = await self.plane.query(GetWorkload(workload_id=workload_id))
                assert isinstance(view, WorkloadView)
                if view.phase.terminal:
                    await changes.aclose()
                    return view
        raise AssertionError("a subscription ends only when it is closed")


@asynccontextmanager
async def in_process_plane(
    *,
    nodes: Sequence[SimulatedNode] | None = None,
    policy: ClusterPolicy | None = None,
    settings: SchedulerSettings | None = None,
    retention: RetentionSettings | None = None,
    clock: Clock | None = None,
    state_dir: Path | None = None,
    database_url: str = "",
) -> AsyncIterator[InProcessPlane]:
    """Runs a plane for the time of the block.

    Args:
        nodes: those that attach at the start; None is one that can do everything and ends all work at once.
        state_dir: database and blobs, kept; None is a temporary directory, removed at the end.
        database_url: another database than SQLite in ``state_dir``.
        retention: None keeps everything.
    """
    async with AsyncExitStack() as stack:
        if state_dir is None:
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arcray-")))
        clock = clock or SystemClock()
        driver = LocalDriver()
        plane = Plane(
            policy=policy or ClusterPolicy(),
            journal=Journal(database_url or sa.URL.create("sqlite", database=str(state_dir / "arcray.db"))),
            drivers={"local": driver, DRIVER: driver},
            blobs=FsspecBlobs(state_dir / "blobs", max_blob_bytes=_MAX_BLOB_BYTES),
            clock=clock,
            settings=settings or SchedulerSettings(),
            retention=retention or KEEP_ALL,
        )
        await plane.start()
        stack.push_async_callback(plane.stop)
        cluster = InProcessPlane(plane, driver, clock)
        started, done = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(cluster.serve(started, done))
        await started.wait()
        try:
            for node in [SimulatedNode()] if nodes is None else nodes:
                await cluster.attach(node)
            yield cluster
        finally:
            done.set()
            await serving
