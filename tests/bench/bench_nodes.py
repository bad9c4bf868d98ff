"""Budget: 10,000 nodes that report every 10 s cost the scheduler at most a fifth of a core, on any machine with two.

    python -m pytest tests/bench/bench_nodes.py -m bench -s

What is counted is the processor that one beat of all nodes takes, from the frame that comes in over a line to the frame
of answers that goes out, with what the scheduler does beside it in those 10 s: its ticks, which look at leases, and its
readings of the gauges. Every node has four GPUs and two models, and its load is another one at every beat.

Nodes that joined through a gateway come in frames of many; each Ray node has a line of its own, so its report comes
alone. The bare thing decodes the same frames and keeps each reading in a dictionary.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import process_time
from typing import Final

import pytest

from arcray.control.plane import Plane
from arcray.core.commands import AttachNode, ReportModels, ReportTelemetry
from arcray.core.ids import ModelId, NodeId
from arcray.core.model import ModelSlots
from arcray.core.node import GpuTelemetry, Location, Telemetry
from arcray.core.queries import GetStats
from arcray.drivers.frames import decode, encode
from arcray.runtime.messages import FromClient, FromScheduler
from arcray.runtime.switchboard import Switchboard
from arcray.testing.builders import T0, a_capacity, a_node, node_id
from arcray.testing.clock import FakeClock
from arcray.testing.plane import in_process_plane
from tests.bench.report import ROUNDS, BenchRow, check, row

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

BUDGET_CORE: Final = 0.2
BUDGET_US: Final = 20.0
NODES: Final = 10_000
EVERY_S: Final = 10.0
GAUGES: Final = 2  # readings in that time
TOGETHER: Final = 250  # nodes of one gateway that report within 250 ms
MODELS: Final = tuple(ModelSlots(model_id=ModelId(f"model-{number}"), slots=8) for number in range(2))


class Sink:
    """The scheduler's end of a line that carries nothing."""

    full = False

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        """There is no other end."""


class Pool:
    """A plane with all the nodes, and the clients that speak for them."""

    def __init__(self, plane: Plane, clock: FakeClock, board: Switchboard) -> None:
        self.plane = plane
        self.clock = clock
        self._board = board
        self._random = random.Random(7)

    async def join(self) -> None:
        """Attaches every node, with its models."""
        letters = "0123456789bcdefghjkmnpqrstuvwxyz"
        places = ["9" + "".join(self._random.choices(letters, k=5)) for _ in range(200)]
        for start in range(0, NODES, 1_000):
            numbers = range(start, start + 1_000)
            attached = [
                AttachNode(
                    registration=a_node(
                        number,
                        capacity=a_capacity(gpus=4),
                        location=Location(geohash=self._random.choice(places)),
                    )
                )
                for number in numbers
            ]
            assert not any(isinstance(reply, Exception) for reply in await self.plane.submit(attached))
            await self.plane.submit(
                [ReportModels(node_id=node_id(number), epoch=1, models=MODELS) for number in numbers]
            )

    def beat(self, together: int) -> list[bytes]:
        """Returns the frames of one report of every node."""
        reports = [self._report(number) for number in range(NODES)]
        return [
            encode(FromClient(commands=tuple(enumerate(reports[start : start + together]))))
            for start in range(0, NODES, together)
        ]

    def _report(self, number: int) -> ReportTelemetry:
        gpus = tuple(
            GpuTelemetry(
                index=index,
                utilization=self._random.random() * 0.8,
                memory_used_bytes=self._random.getrandbits(35),
                temperature_c=60,
                power_w=300.0,
            )
            for index in range(4)
        )
        reading = Telemetry(at=T0, cpu_utilization=self._random.random(), memory_used_bytes=1 << 33, gpus=gpus)
        return ReportTelemetry(node_id=node_id(number), epoch=1, telemetry=reading)

    async def seconds(self, frames: Sequence[bytes]) -> float:
        """Takes a beat over one line; returns the processor it took."""
        sink = Sink()
        client = self._board.accept("gateway", sink)
        began = process_time()
        for frame in frames:
            client.on_frame(frame)
            await asyncio.sleep(0)  # the turn ends, and the answers go out
            await asyncio.sleep(0)
        took = process_time() - began
        heard = 0
        for frame in sink.frames:
            said: FromScheduler = decode(frame)
            heard += len(said.replies)
        assert heard == NODES
        client.on_lost("the beat is over")
        return took

    async def seconds_beside(self) -> float:
        """Returns the processor for what goes on beside the reports for the time of one beat."""
        began = process_time()
        await self.clock.advance(EVERY_S)  # the plane ticks every 50 ms, and looks at leases that come due
        for _ in range(GAUGES):
            await self.plane.query(GetStats())
        return process_time() - began


async def bare_seconds(frames: Sequence[bytes]) -> float:
    kept: dict[NodeId, Telemetry | None] = {}
    began = process_time()
    for frame in frames:
        said: FromClient = decode(frame)
        for _, command in said.commands:
            assert isinstance(command, ReportTelemetry)
            kept[command.node_id] = command.telemetry
    took = process_time() - began
    assert len(kept) == NODES
    return took


@asynccontextmanager
async def pool(directory: Path) -> AsyncIterator[Pool]:
    clock = FakeClock()
    board = Switchboard()
    async with in_process_plane(nodes=[], state_dir=directory, clock=clock) as cluster:
        serving = asyncio.create_task(board.run(cluster.plane))
        await asyncio.sleep(0)
        made = Pool(cluster.plane, clock, board)
        await made.join()
        yield made
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def figures(made: Pool, together: int, name: str) -> list[BenchRow]:
    costs: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    for number in range(ROUNDS):
        frames = made.beat(together)
        if number % 2:
            alone.append(await bare_seconds(frames))
            costs.append(await made.seconds(frames))
        else:
            costs.append(await made.seconds(frames))
            alone.append(await bare_seconds(frames))
        beside.append(await made.seconds_beside())
    core = [(cost + other) / EVERY_S for cost, other in zip(costs, beside, strict=True)]
    each_us = [cost / NODES * 1e6 for cost in costs]
    bare_us = [cost / NODES * 1e6 for cost in alone]
    budget_us = BUDGET_US if together > 1 else None
    return [
        row(f"10,000 nodes every 10 s, {name}", core, "core", better="lower", budget=BUDGET_CORE),
        row("  one report", each_us, "us", better="lower", budget=budget_us, bare=bare_us),
        row("  ticks and gauges in that time", [other / EVERY_S for other in beside], "core", better="lower"),
    ]


@pytest.mark.usefixtures("tuned")
async def test_ten_thousand_nodes_cost_a_fifth_of_a_core(tmp_path: Path) -> None:
    async with pool(tmp_path) as made:
        rows = await figures(made, TOGETHER, f"{TOGETHER} in a frame")
        rows += await figures(made, 1, "each in a frame of its own")
        check(rows)
