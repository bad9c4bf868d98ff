"""The real scheduler actor is killed at any time and started again by Ray: what it acknowledged holds.

``tests/chaos`` does the same to a process without Ray, more often and with aim.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray

from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.scheduler_handle import SCHEDULER, SchedulerHandle
from arcray.testing.scheduler_process import Kill, KillPoint
from arcray.wire.system import SystemClock
from tests.chaos.kill_round import KillRound
from tests.chaos.transfer_round import TransferRound
from tests.hivemind_examples import compiled_client
from tests.rounds import LookedAt, rounds

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster


class RayScheduler:
    """The scheduler actor of the session's cluster. Its deaths come from outside, so many milliseconds after it serves.

    Attributes:
        deaths: how often it was killed.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.deaths = 0
        self._cluster = cluster

    def dialer(self, client: str) -> SchedulerHandle:
        return SchedulerHandle(client=client)

    async def live(self, kills: Sequence[Kill]) -> None:
        pid = await self._serving(after=0)
        for kill in kills:
            await SystemClock().sleep(kill.count / 1000)
            os.kill(pid, signal.SIGKILL)
            self.deaths += 1
            pid = await self._serving(after=pid)

    async def _serving(self, after: int) -> int:
        """Waits for the successor of a process to serve; returns its id."""

        def look() -> int | None:
            status = self._cluster.status(SCHEDULER)
            return status["pid"] if status["ready"] and status["pid"] != after else None

        return await asyncio.to_thread(self._cluster.until, look, "the scheduler serves")


@pytest.mark.chaos
@pytest.mark.rounds(5, 50)
async def test_what_was_acknowledged_survives_kills_of_the_actor(
    cluster: Cluster, tmp_path: Path, seed: int, looked_at: LookedAt
) -> None:
    """Takes about four seconds, most of which Ray needs to start a process."""
    dice = random.Random(seed)
    kills = [Kill(point=KillPoint.TIME, count=dice.randint(1, 500)) for _ in range(dice.randint(1, 2))]
    print("kills:", *kills)
    async with asyncio.timeout(110):
        happening = KillRound(dice, RayScheduler(cluster), kills, tmp_path)
        await happening.run()
    await asyncio.to_thread(happening.check, cluster.settings.state_dir / "arcray.db")
    looked_at(kill_rounds_of_the_actor=1, **happening.figures)


@pytest.mark.chaos
@pytest.mark.rounds(1, 10)
async def test_transfers_over_grpc_survive_kills_of_the_actor(
    cluster: Cluster, tmp_path: Path, seed: int, looked_at: LookedAt
) -> None:
    """Takes two seconds, most of which Ray needs to start a process."""
    dice, number = random.Random(seed), rounds(100, 1000)
    kill = Kill(point=KillPoint.TIME, count=dice.randint(1, number // 3))
    print("kill:", kill)
    await compiled_client(tmp_path)
    async with asyncio.timeout(110):
        transfers = TransferRound(dice, f"127.0.0.1:{cluster.settings.gateway.grpc_port}", tmp_path, number)
        await transfers.open()
        scheduler = RayScheduler(cluster)
        await transfers.run(scheduler, [kill])
    await asyncio.to_thread(transfers.check, cluster.settings.state_dir / "arcray.db")
    looked_at(kill_rounds_of_transfers=1, deaths=scheduler.deaths, **transfers.figures)


def test_ray_repeats_no_call_of_ours_by_itself(cluster: Cluster) -> None:
    """It would not know whether a call was acted on; our clients ask again with ids that make it mean the same."""
    handles: list[Any] = [ray.get_actor(name, NAMESPACE) for name in cluster.actor_names()]
    assert [handle._ray_max_task_retries for handle in handles] == [0] * len(handles)
