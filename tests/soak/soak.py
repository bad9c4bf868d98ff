"""A stream of short workloads through plane, dispatcher and nodes on a real SQLite file, in one process.

Half of the work is containers, half inference requests whose senders wait, from many places, each under an
idempotency key of its own, and a reader follows all events, as a gateway does: what grows anywhere shows.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from arcray.core.commands import (
    Attached,
    AttachNode,
    Command,
    ReportEnd,
    ReportModels,
    ReportPhase,
    ReportTelemetry,
    SubmitWorkload,
)
from arcray.core.errors import ArcrayError
from arcray.core.events import Topic, WorkloadFinished
from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.node import Telemetry
from arcray.core.orders import Order, RunInference, StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetQueues, Queues
from arcray.core.workload import Inference, Origin, Phase, Result, WorkloadSpec
from arcray.testing.builders import a_container, a_node, node_id
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["Soak", "resident_bytes", "soaking"]

NODES: Final = 16
IN_FLIGHT: Final = 128
ECHO: Final = ModelId("echo")
CLOCK, IDS = SystemClock(), RandomIds()


class ShortNode:
    """The least that a node can be without cheating: it starts, reports, ends and beats, and remembers nothing."""

    def __init__(self, number: int, plane: ControlPlane) -> None:
        self.registration = a_node(number)
        self._plane = plane
        self._epoch = 0
        self._calls: set[asyncio.Task[Any]] = set()

    async def attach(self) -> None:
        (reply,) = await self._plane.submit([AttachNode(registration=self.registration)])
        assert isinstance(reply, Attached)
        self._epoch = reply.epoch
        models = (ModelSlots(model_id=ECHO, slots=IN_FLIGHT),)
        await self._plane.submit([ReportModels(node_id=self.id, epoch=self._epoch, models=models)])

    @property
    def id(self) -> NodeId:
        return self.registration.id

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        reports: list[Command] = [
            ReportTelemetry(node_id=self.id, epoch=epoch, telemetry=Telemetry(at=CLOCK.now(), cpu_utilization=0.5))
        ]
        for order in orders:
            match order:
                case StartWorkload():
                    reports.append(self._running(order, epoch))
                    reports.append(self._end(order, epoch, Result(exit_code=0)))
                case RunInference():
                    reports.append(self._end(order, epoch, Result(output=order.input, duration_ms=0.1, pid=1)))
                case _:
                    raise AssertionError(f"nobody stops anything here: {order}")
        call = asyncio.ensure_future(self._plane.submit(reports))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def _running(self, order: StartWorkload, epoch: int) -> ReportPhase:
        return ReportPhase(
            node_id=self.id, epoch=epoch, workload_id=order.workload_id, attempt=order.attempt, phase=Phase.RUNNING
        )

    def _end(self, order: StartWorkload | RunInference, epoch: int, result: Result) -> ReportEnd:
        return ReportEnd(
            node_id=self.id, epoch=epoch, workload_id=order.workload_id, attempt=order.attempt,
            phase=Phase.SUCCEEDED, result=result,
        )  # fmt: skip


class Soak:
    """The stream of work, and who follows it."""

    def __init__(self, cluster: InProcessPlane, places: int) -> None:
        self._places = places
        self._plane = cluster.plane
        self._ends: dict[WorkloadId, asyncio.Future[None]] = {}
        self.done = 0

    async def follow(self) -> None:
        """Reads every event, and lets go of whoever waits for an end."""
        async for batch in self._plane.events(frozenset(Topic)):
            assert not batch.gap
            for event in batch.events:
                if isinstance(event, WorkloadFinished):
                    waiting = self._ends.pop(event.workload_id, None)
                    if waiting is not None:
                        waiting.set_result(None)

    async def through(self, count: int) -> None:
        """Has so many workloads go through."""
        left = count

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await (self._request() if left % 2 else self._container())
                self.done += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(caller())

    async def check_queues(self) -> None:
        """Asserts that no queue is longer than it may be, and that none is left long when nothing is under way."""
        said = await self._plane.query(GetQueues())
        assert isinstance(said, Queues)
        for reading in said.readings:
            assert reading.length <= IN_FLIGHT, reading
            assert reading.length <= reading.limit, reading

    async def _request(self) -> None:
        payload = Inference(model_id=ECHO, input=b'{"pixels": [0, 1, 2]}', geohash=f"9q{self.done % self._places:04}")
        await self._ask(_spec(payload, waiting=True))

    async def _container(self) -> None:
        spec = _spec(a_container(), waiting=False)
        ended = self._ends[spec.id] = asyncio.get_running_loop().create_future()
        await self._ask(spec)
        async with asyncio.timeout(60):
            await ended

    async def _ask(self, spec: WorkloadSpec) -> None:
        (reply,) = await self._plane.submit([SubmitWorkload(spec=spec)])
        assert not isinstance(reply, ArcrayError), reply


def _spec(payload: Any, *, waiting: bool) -> WorkloadSpec:
    identity = WorkloadId(IDS.new())
    origin = Origin(facade="rest", account=AccountId("local"))
    # Every submission has an idempotency key of its own, because those are kept in memory too.
    return WorkloadSpec(
        id=identity, origin=origin, payload=payload, created_at=CLOCK.now(), request_id=f"key-{identity}",
        request_digest="digest", waiting=waiting,
    )  # fmt: skip


@asynccontextmanager
async def soaking(directory: Path, policy: ClusterPolicy, *, places: int = 9_973) -> AsyncIterator[Soak]:
    """Runs plane and nodes for the time of the block.

    Args:
        places: origins of requests; routing remembers 4,096 of them.
    """
    async with in_process_plane(nodes=[], state_dir=directory, policy=policy) as cluster:
        for number in range(NODES):
            node = ShortNode(number, cluster.plane)
            cluster.driver.add(node_id(number), node)
            await node.attach()
        soak = Soak(cluster, places)
        following = asyncio.create_task(soak.follow())
        yield soak
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def resident_bytes() -> int:
    """Returns what the kernel counts as this process's memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
