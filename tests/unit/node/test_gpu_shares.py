"""Who takes more of a GPU than its share."""

from __future__ import annotations

import asyncio
import os

import pytest

from arcray.core.resources import Allocation, GpuShare
from arcray.node.gpu import GpuHolding
from arcray.node.gpu_shares import GpuShares, overdrawn
from arcray.testing.clock import FakeClock

GIB = 2**30
ABSENT = range(2**23, 2**23 + 8)  # processes that no machine has
SHARES = Allocation(gpus=tuple(GpuShare(index=index, memory_bytes=2 * GIB, whole=False) for index in (0, 1)))
TOO_MUCH = f"used more than {2 * GIB} bytes of the memory of GPU 1"


def held(pid: int, gib: int, index: int = 1) -> GpuHolding:
    return GpuHolding(index=index, pid=pid, memory_bytes=gib * GIB)


@pytest.mark.parametrize(
    ("holdings", "excess"),
    [
        ([held(7, 2)], ""),
        ([held(7, 3)], TOO_MUCH),
        ([held(7, 2), held(8, 1)], TOO_MUCH),
        ([held(7, 2, index=0), held(8, 2)], ""),
        ([held(7, 1), held(9, 70)], ""),
    ],
    ids=["all of it", "more", "more together", "on two devices", "a neighbour's"],
)
def test_a_share_is_what_all_processes_of_the_work_hold_of_one_device(holdings: list[GpuHolding], excess: str) -> None:
    assert overdrawn(holdings, (7, 8), SHARES) == excess


def test_who_has_a_device_whole_may_take_what_it_finds() -> None:
    whole = Allocation(gpus=(GpuShare(index=1, memory_bytes=2 * GIB, whole=True),))
    assert overdrawn([held(7, 3)], (7,), whole) == ""


async def test_what_shares_nothing_is_not_looked_at() -> None:
    def never() -> tuple[GpuHolding, ...]:
        raise AssertionError("the driver was asked")

    clock = FakeClock()
    waiting = asyncio.ensure_future(GpuShares(never, clock).until_overdrawn(7, Allocation()))
    await clock.advance(60)
    assert not waiting.done()
    waiting.cancel()


async def test_the_driver_is_asked_once_for_all_that_share() -> None:
    asked: list[int] = []
    clock = FakeClock()

    def holdings() -> tuple[GpuHolding, ...]:
        asked.append(1)
        return tuple(held(pid, 3) for pid in ABSENT)

    shares = GpuShares(holdings, clock)
    watches = [asyncio.ensure_future(shares.until_overdrawn(pid, SHARES)) for pid in ABSENT]
    await clock.advance(0.5)
    assert await asyncio.gather(*watches) == [TOO_MUCH] * len(ABSENT)
    assert len(asked) == 1
    late = asyncio.ensure_future(shares.until_overdrawn(ABSENT[0], SHARES))
    await clock.advance(0.5)
    assert await late == TOO_MUCH
    assert len(asked) == 2


async def test_numbers_of_the_machine_are_not_taken_for_ours_in_a_container(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    us = os.getpid()  # which is also the machine's number of somebody else's process
    shares = GpuShares(lambda: (held(us, 3), held(ABSENT[0], 1)), clock, namespaced=True)
    watching = asyncio.ensure_future(shares.until_overdrawn(us, SHARES))
    async with asyncio.timeout(10):
        while not caplog.records:
            await clock.advance(0.5)
    assert not watching.done()
    watching.cancel()
    (warning,) = caplog.records
    assert warning.message == "shares of GPUs are not kept"
    assert "--pid=host" in warning.__dict__["remedy"]


async def test_a_driver_that_numbers_as_a_container_does_is_believed() -> None:
    clock = FakeClock()
    shares = GpuShares(lambda: (held(os.getpid(), 3),), clock, namespaced=True)
    watching = asyncio.ensure_future(shares.until_overdrawn(os.getpid(), SHARES))
    await clock.advance(0.5)
    assert await watching == TOO_MUCH
