"""Anything may happen at any time: whatever does, the promises hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from arcray.core.commands import IssueCredits, OpenAccount, SetNodeScheduling, StopWorkload, SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.core.events import NodeAttached, WorkloadFinished, WorkloadPlaced
from arcray.core.ids import EntryId, WorkloadId
from arcray.core.node import LeaseTerms
from arcray.core.orders import StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.tariff import Prices
from arcray.core.workload import Phase, RestartPolicy, RestartRule
from arcray.testing.builders import a_workload, an_inference
from arcray.testing.clock import FakeClock
from arcray.testing.faults import FailPoints, check_memory_is_the_rows, folded, journalled, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode

STEPS = 120
LEASE = LeaseTerms(unhealthy_after_s=3.0, lost_after_s=9.0)
RESTARTS = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2)


class Storm:
    """A cluster, a random number generator, and everything that may happen."""

    def __init__(self, cluster: InProcessPlane, clock: FakeClock, dice: random.Random) -> None:
        self.cluster = cluster
        self.clock = clock
        self.dice = dice
        self.points = FailPoints(cluster.plane)
        self.submitted: list[WorkloadId] = []
        self.acknowledged: list[WorkloadId] = []
        self.replies: list[asyncio.Future[object]] = []
        self.failures = 0

    def script(self, _order: StartWorkload) -> Script:
        if self.dice.random() < 0.1:
            return Script.refusal("no room")
        end = self.dice.choice([Phase.SUCCEEDED, Phase.FAILED, None])
        return Script(end=end, takes_s=self.dice.choice([0.0, 0.5, 5.0]))

    async def step(self) -> None:
        happening = self.dice.choice(
            [self.submit, self.submit, self.request, self.stop, self.pass_time, self.pass_time, self.node, self.disk]
        )
        await happening()

    async def submit(self) -> None:
        spec = a_workload(len(self.submitted) + 1, restart=self.dice.choice([RestartPolicy(), RESTARTS]))
        self.submitted.append(spec.id)
        (reply,) = self.cluster.plane.begin([SubmitWorkload(spec=spec)])
        reply.add_done_callback(lambda done: self.note(spec.id, done))
        self.replies.append(reply)

    def note(self, workload_id: WorkloadId, done: asyncio.Future[object]) -> None:
        if not isinstance(done.result(), ArcrayError):
            self.acknowledged.append(workload_id)

    async def request(self) -> None:
        spec = a_workload(len(self.submitted) + 1, an_inference(input=b"1"), waiting=True)
        self.submitted.append(spec.id)
        self.replies += self.cluster.plane.begin([SubmitWorkload(spec=spec)])

    async def stop(self) -> None:
        if self.submitted:
            workload_id = self.dice.choice(self.submitted)
            self.replies += self.cluster.plane.begin([StopWorkload(workload_id=workload_id)])

    async def pass_time(self) -> None:
        await self.clock.advance(self.dice.choice([0.01, 0.1, 1.0, 4.0]))

    async def node(self) -> None:
        node = self.dice.choice(self.cluster.nodes)
        match self.dice.randrange(4):
            case 0:
                node.silent = not node.silent
            case 1:
                cordon = SetNodeScheduling(node_id=node.id, cordoned=self.dice.random() < 0.3)
                self.replies += self.cluster.plane.begin([cordon])
            case _ if not node.silent:
                await self.come_back(node)
            case _:
                pass

    async def come_back(self, node: SimulatedNode) -> None:
        crashing = asyncio.ensure_future(node.crash())
        while not crashing.done():  # the database may be failing, and its back-off runs on the fake clock
            await self.clock.advance(0.1)
        await crashing

    async def disk(self) -> None:
        first = self.dice.randrange(1, 30)
        last = first + self.dice.choice([0, 0, 0, 20])
        with self.points.arm(lambda step: first <= step <= last):
            for _ in range(4):
                await self.dice.choice([self.submit, self.request, self.stop, self.pass_time])()
                await asyncio.sleep(0.002)
        self.failures += self.points.failed

    async def calm_down(self) -> None:
        """Lets everything end: nodes are there, and what still runs is finished."""
        for node in self.cluster.nodes:
            node.silent = False
        async with asyncio.timeout(30):
            while self.live() or not all(reply.done() for reply in self.replies):
                for node in self.cluster.nodes:
                    self.cluster.plane.begin([SetNodeScheduling(node_id=node.id, cordoned=False)])
                    for workload_id in self.live():
                        node.finish(workload_id)
                await self.clock.advance(0.5)
                await self.written()

    async def written(self) -> None:
        """Lets the journal's thread, which lives in real time, catch up.

        A slow disk would else look like minutes of silence on the clock, and every lease would be lost again and again.
        While the database is failing, nothing is written before the clock has moved on.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await self.cluster.plane._writer.commits.idle()

    def live(self) -> list[WorkloadId]:
        workloads = self.cluster.plane._writer.cluster.state.workloads
        return [key for key, workload in workloads.items() if not workload.phase.terminal]


async def fund(cluster: InProcessPlane) -> None:
    account = a_workload().origin.account
    await cluster.ask(OpenAccount(account_id=account))
    await cluster.ask(IssueCredits(id=EntryId("all"), account_id=account, credits=10_000))


@pytest.mark.parametrize("seed", range(8))
async def test_the_promises_hold_in_a_storm(tmp_path: Path, seed: int) -> None:
    """Takes about half a second per seed: 120 things happen, in real transactions. In every other storm work pays."""
    policy = ClusterPolicy(prices=Prices(cpu_core_minute=7, workload=2, inference=1)) if seed % 2 else ClusterPolicy()
    path, clock, dice = tmp_path / "arcray.db", FakeClock(), random.Random(seed)
    async with in_process_plane(nodes=[], clock=clock, state_dir=tmp_path, policy=policy) as cluster:
        await fund(cluster)
        storm = Storm(cluster, clock, dice)
        for name in ("one", "two"):
            await cluster.attach(
                SimulatedNode(name, models={"echo": lambda value: value}, script=storm.script, lease=LEASE, slots=2)
            )
        for _ in range(STEPS):
            await storm.step()
        await storm.calm_down()
        await check_memory_is_the_rows(cluster.plane, path)
        events, stored = journalled(path), stored_workloads(path)

    ends = Counter(event.workload_id for event in events if isinstance(event, WorkloadFinished))
    assert set(ends.values()) <= {1}
    assert {key for key, workload in stored.items() if workload.phase.terminal} == set(ends) == set(stored)
    assert set(storm.acknowledged) <= set(stored)
    assert folded(events) == stored
    attempts = [(event.workload_id, event.attempt) for event in events if isinstance(event, WorkloadPlaced)]
    assert len(attempts) == len(set(attempts))
    epochs = [(event.registration.id, event.epoch) for event in events if isinstance(event, NodeAttached)]
    assert len(epochs) == len(set(epochs))
    for node in storm.cluster.nodes:
        started = {(order.workload_id, order.attempt) for order in node.orders if isinstance(order, StartWorkload)}
        assert started <= set(attempts)
    assert storm.failures >= 3
    assert len(storm.acknowledged) >= 5
