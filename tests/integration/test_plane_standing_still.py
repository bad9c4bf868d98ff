"""A plane that stood still, because its process or its machine was stopped, and what it makes of the time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from arcray.core.commands import Attached, AttachNode, ReportTelemetry
from arcray.core.node import Health, NodeView
from arcray.core.queries import GetNode
from arcray.testing.builders import a_node, node_id
from arcray.testing.clock import FakeClock
from arcray.testing.plane import InProcessPlane, in_process_plane

LEASE_S = 150.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def cluster(clock: FakeClock) -> AsyncIterator[InProcessPlane]:
    async with in_process_plane(clock=clock) as cluster:
        yield cluster


async def attach(cluster: InProcessPlane, number: int) -> int:
    attached = await cluster.ask(AttachNode(registration=a_node(number, driver="simulated")))
    assert isinstance(attached, Attached)
    return attached.epoch


async def health(cluster: InProcessPlane, number: int) -> Health:
    view = await cluster.plane.query(GetNode(node_id=node_id(number)))
    assert isinstance(view, NodeView)
    return view.health


async def test_nodes_that_were_not_heard_while_nobody_listened_keep_their_work(
    cluster: InProcessPlane, clock: FakeClock
) -> None:
    epoch = await attach(cluster, 1)
    await attach(cluster, 2)
    await clock.stand_still(2 * LEASE_S)
    await clock.advance(0.5)
    await cluster.ask(ReportTelemetry(node_id=node_id(1), epoch=epoch))  # which was on its way meanwhile
    await clock.advance(1.0)
    assert await health(cluster, 1) is Health.HEALTHY
    assert await health(cluster, 2) is Health.LOST


async def test_a_machine_that_was_suspended_finds_no_node_silent(cluster: InProcessPlane, clock: FakeClock) -> None:
    """Its monotonic clock stood still too, so all that it notices is that the time has been set."""
    await attach(cluster, 1)
    clock.jump(2 * LEASE_S)
    await clock.advance(1.0)
    assert await health(cluster, 1) is Health.HEALTHY


@pytest.mark.parametrize("runs_s", [0.04, 1.0])
async def test_a_process_that_is_stopped_again_and_again_finds_a_silent_node(
    cluster: InProcessPlane, clock: FakeClock, runs_s: float
) -> None:
    await attach(cluster, 1)
    for _ in range(round(1.2 * LEASE_S / (1.1 + runs_s))):
        await clock.stand_still(1.1)
        await clock.advance(runs_s)
    assert await health(cluster, 1) is Health.LOST
