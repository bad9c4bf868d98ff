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
    Command,
    ReportEnd,
    ReportPhase,
    ReportTelemetry,
    SubmitWorkload,
)
from arcray.core.events import Topic, WorkloadFinished
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.node import Telemetry
from arcray.core.orders import Order, RunInference, StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetQueues, Queues
from arcray.core.workload import Inference, Origin, Phase, Result, WorkloadSpec
from arcray.testing.builders import a_container, a_node
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.wire.asking import ask
from arcray.wire.system import RandomIds, SystemClock
from tests.least_node import ECHO, LeastNode

__all__ = ["Soak", "resident_bytes", "soaking"]

NODES: Final = 16
IN_FLIGHT: Final = 128
CLOCK, IDS = SystemClock(), RandomIds()


def short_node(number: int, plane: ControlPlane) -> LeastNode:
    """A node that starts, reports, ends and beats without cheating."""
    return LeastNode(a_node(number), plane, IN_FLIGHT, _done)


def _done(node: NodeId, epoch: int, orders: Sequence[Order]) -> list[Command]:
    reports: list[Command] = [
        ReportTelemetry(node_id=node, epoch=epoch, telemetry=Telemetry(at=CLOCK.now(), cpu_utilization=0.5))
    ]
    for order in orders:
        match order:
            case StartWorkload():
                reports.append(_running(node, epoch, order))
                reports.append(_end(node, epoch, order, Result(exit_code=0)))
            case RunInference():
                reports.append(_end(node, epoch, order, Result(output=order.input, duration_ms=0.1, pid=1)))
            case _:
                raise AssertionError(f"nobody stops anything here: {order}")
    return reports


def _running(node: NodeId, epoch: int, order: StartWorkload) -> ReportPhase:
    return ReportPhase(
        node_id=node, epoch=epoch, workload_id=order.workload_id, attempt=order.attempt, phase=Phase.RUNNING
    )


def _end(node: NodeId, epoch: int, order: StartWorkload | RunInference, result: Result) -> ReportEnd:
    return ReportEnd(
        node_id=node, epoch=epoch, workload_id=order.workload_id, attempt=order.attempt,
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
        await ask(self._plane, SubmitWorkload(spec=spec))


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
            node = short_node(number, cluster.plane)
            cluster.driver.add(node.id, node)
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
