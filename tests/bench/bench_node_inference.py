"""Budget: one model process answers 5,000 requests a second at 64 in flight, from order to report, on two cores.

    python -m pytest tests/bench/bench_node_inference.py -s

The bare thing is the same function called in a loop with the same JSON: it says what the path costs a request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from arcray.config import Settings
from arcray.core.commands import Command, ReportEnd, ReportModels
from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.orders import RunInference, StartWorkload
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import ModelServer, Phase
from arcray.node.agent import NodeAgent
from arcray.testing.builders import a_model
from arcray.testing.node_fakes import FakePlane
from arcray.wire.system import RandomIds, SystemClock
from tests.bench.report import ROUNDS, check, row

pytestmark = pytest.mark.bench

BUDGET_PER_S = 5_000
IN_FLIGHT = 64
REQUESTS = 20_000


class CountingPlane(FakePlane):
    """Takes reports at once and counts the answers instead of keeping them."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = False
        self.answered = 0
        self.more = asyncio.Event()

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        if not self.counting:
            return await super().submit(commands)
        for command in commands:
            if isinstance(command, ReportEnd):
                assert command.phase is Phase.SUCCEEDED, command.message
                self.answered += 1
        self.more.set()
        return [None] * len(commands)


@pytest.fixture
async def loaded(tmp_path: Path) -> AsyncIterator[tuple[NodeAgent, CountingPlane]]:
    (tmp_path / "instant.py").write_text("def double(value):\n    return value * 2\n")
    plane = CountingPlane()
    settings = Settings.model_validate(
        {"state_dir": tmp_path, "node": {"containers": {"enabled": "never"}, "models": {"python_path": [tmp_path]}}}
    )
    agent = NodeAgent(node_id=NodeId("bench"), plane=plane, settings=settings, clock=SystemClock(), ids=RandomIds())
    await agent.start(await agent.registration(driver="local", facade="ray", address=""))
    order = StartWorkload(
        workload_id=WorkloadId("model"),
        attempt=1,
        payload=ModelServer(model=a_model("m", source="instant:double", max_concurrency=IN_FLIGHT)),
        demand=Demand(),
        allocation=Allocation(),
        owner="bench",
    )
    await agent.deliver(agent.epoch, [order])
    await plane.until(lambda commands: any(isinstance(each, ReportModels) and each.models for each in commands))
    yield agent, plane
    plane.counting = False
    await agent.stop()


async def requests_per_s(agent: NodeAgent, plane: CountingPlane, numbers: count[int]) -> float:
    """A closed loop: each answer makes room for the next request."""
    plane.counting, plane.answered = True, 0
    sent = 0
    started = perf_counter()
    while plane.answered < REQUESTS:
        room = min(IN_FLIGHT - (sent - plane.answered), REQUESTS - sent)
        if room:
            await agent.deliver(agent.epoch, [_request(next(numbers)) for _ in range(room)])
            sent += room
        plane.more.clear()
        if plane.answered < REQUESTS:
            async with asyncio.timeout(30):
                await plane.more.wait()
    return REQUESTS / (perf_counter() - started)


def _request(number: int) -> RunInference:
    return RunInference(
        workload_id=WorkloadId(f"request-{number}"),
        attempt=1,
        model_id=ModelId("m"),
        input=b"[0.0, 0.5, 1.0]",
        context_window_tokens=1,
        timeout_s=30.0,
    )


def bare_per_s() -> float:
    started = perf_counter()
    for _ in range(REQUESTS):
        json.dumps(json.loads(b"[0.0, 0.5, 1.0]") * 2).encode()
    return REQUESTS / (perf_counter() - started)


async def test_one_model_process_answers_thousands_a_second(loaded: tuple[NodeAgent, CountingPlane]) -> None:
    agent, plane = loaded
    numbers = count()
    await requests_per_s(agent, plane, numbers)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        bare.append(bare_per_s())
        ours.append(await requests_per_s(agent, plane, numbers))
    check([row("inference through one model process", ours, "/s", better="higher", budget=BUDGET_PER_S, bare=bare)])
