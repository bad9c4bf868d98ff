from __future__ import annotations

import asyncio

import pytest

from arcray.core.errors import UnavailableError
from arcray.gateway.background import Background


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_parts_run_until_it_is_stopped_and_may_clean_up() -> None:
    ended = asyncio.Event()

    async def part() -> None:
        try:
            await forever()
        finally:
            ended.set()

    background = Background([part, forever])
    background.start()
    await asyncio.sleep(0)
    background.check()
    await background.stop()
    assert ended.is_set()


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "returns"])
async def test_a_part_that_ends_makes_the_replica_unhealthy_and_ends_the_others(fails: bool) -> None:
    ended = asyncio.Event()

    async def part() -> None:
        if fails:
            raise ValueError("broken")

    async def other() -> None:
        try:
            await forever()
        finally:
            ended.set()

    background = Background([other, part])
    background.start()
    async with asyncio.timeout(5):
        await ended.wait()
        await background.stop()
    with pytest.raises(UnavailableError, match="ended"):
        background.check()


async def test_what_never_started_is_unhealthy() -> None:
    with pytest.raises(UnavailableError):
        Background([]).check()
