"""Budget: from an order to a running container, at most 1.2 times the Docker SDK alone.

    python -m pytest tests/bench/bench_container.py -s

Five alternating pairs; in each, the median of several containers started one after the other, by the SDK's own
``containers.run(detach=True)`` and by a node agent, from ``deliver`` to the report that it is running.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter

import docker
import pytest

from arcray.config import Settings
from arcray.core.commands import ReportEnd, ReportPhase
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase
from arcray.node.agent import NodeAgent
from arcray.testing.node_fakes import FakePlane
from arcray.wire.system import RandomIds, SystemClock
from tests.bench.report import ROUNDS, check, row

pytestmark = [pytest.mark.bench, pytest.mark.docker]

BUDGET = 1.2
CONTAINERS = 6
SLEEP = ("/bin/sleep", "600")


class Agent:
    """A node agent whose reports are taken at once."""

    def __init__(self, state_dir: Path) -> None:
        self.plane = FakePlane()
        settings = Settings.model_validate({"state_dir": state_dir, "node": {"containers": {"enabled": "always"}}})
        self.agent = NodeAgent(
            node_id=NodeId(RandomIds().new()),
            plane=self.plane,
            settings=settings,
            clock=SystemClock(),
            ids=RandomIds(),
        )

    async def seconds_to_running(self, image_name: str) -> float:
        workload_id = WorkloadId(RandomIds().new())
        order = StartWorkload(
            workload_id=workload_id,
            attempt=1,
            payload=Container(image=image_name, command=SLEEP),
            demand=Demand(),
            allocation=Allocation(),
            owner="bench",
        )
        started = perf_counter()
        await self.agent.deliver(self.agent.epoch, [order])
        await self.plane.until(
            lambda commands: any(
                isinstance(each, ReportPhase) and each.phase is Phase.RUNNING and each.workload_id == workload_id
                for each in commands
            )
        )
        taken = perf_counter() - started
        await self.agent.deliver(self.agent.epoch, [StopAttempt(workload_id=workload_id, attempt=1, grace_s=0)])
        await self.plane.until(
            lambda commands: any(isinstance(each, ReportEnd) and each.workload_id == workload_id for each in commands)
        )
        self.plane.calls.clear()
        return taken


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path)
    await made.agent.start(await made.agent.registration(driver="local", facade="ray", address=""))
    yield made
    await made.agent.stop()


def seconds_alone(client: docker.DockerClient, image_name: str) -> float:
    started = perf_counter()
    container = client.containers.run(image_name, list(SLEEP), detach=True)
    taken = perf_counter() - started
    container.remove(force=True)
    return taken


async def test_container_starts_nearly_as_fast_as_by_the_sdk_alone(
    agent: Agent, docker_client: docker.DockerClient, image: str
) -> None:
    await agent.seconds_to_running(image)
    seconds_alone(docker_client, image)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        bare.append(statistics.median(seconds_alone(docker_client, image) for _ in range(CONTAINERS)))
        ours.append(statistics.median([await agent.seconds_to_running(image) for _ in range(CONTAINERS)]))
    ratios = [mine / alone for mine, alone in zip(ours, bare, strict=True)]
    check(
        [
            row("container, order to running", _ms(ours), "ms", better="lower", bare=_ms(bare)),
            row("  of the SDK alone", ratios, "x", better="lower", budget=BUDGET),
        ]
    )


def _ms(seconds: list[float]) -> list[float]:
    return [value * 1000 for value in seconds]
