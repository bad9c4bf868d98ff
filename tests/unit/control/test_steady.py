from __future__ import annotations

from datetime import timedelta

import pytest

from arcray.control.steady import SteadyClock
from arcray.testing.clock import FakeClock

HOUR_S = 3600.0


async def test_time_is_what_a_clock_shows_that_goes_evenly() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    for passed_s in (0.0, 0.05, 7.3, HOUR_S):
        await clock.advance(passed_s)
        assert steady.now() == clock.now()


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
async def test_time_goes_on_evenly_where_the_clock_is_set(jump_s: float) -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    before = steady.now()
    clock.jump(jump_s)
    assert steady.now() == before
    await clock.advance(60)
    passed_s = (steady.now() - before).total_seconds()
    assert passed_s == pytest.approx(60, rel=0.051)


@pytest.mark.parametrize("jump_s", [-60.0, 60.0])
async def test_what_the_clock_shows_is_approached_again(jump_s: float) -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.jump(jump_s)
    await clock.advance(0.9 * 60 / 0.05)
    assert steady.now() != clock.now()
    await clock.advance(0.2 * 60 / 0.05)
    assert steady.now() == clock.now()


async def test_time_goes_on_from_what_it_has_to_reach() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    later = clock.now() + timedelta(hours=1)
    steady.reach(later)
    steady.reach(clock.now())
    assert steady.now() == later
    await clock.advance(100)
    assert steady.now() - later == timedelta(seconds=95)


async def test_durations_are_those_of_the_clock() -> None:
    clock = FakeClock()
    steady = SteadyClock(clock)
    clock.jump(HOUR_S)
    await clock.advance(2)
    assert steady.monotonic() == clock.monotonic()
