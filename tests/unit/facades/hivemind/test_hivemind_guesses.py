"""Wrong passwords are taken at a pace, by name; memory of them is bounded."""

from __future__ import annotations

import pytest

from arcray.core.errors import ResourceExhaustedError
from arcray.core.ids import AccountId
from arcray.facades.hivemind.guesses import Guesses
from arcray.testing.clock import FakeClock

ANA, BEN = AccountId("ana"), AccountId("ben")


async def test_so_many_are_taken_at_once_and_then_at_a_pace() -> None:
    clock = FakeClock()
    guesses = Guesses(clock, at_once=3, per_minute=6)
    for _ in range(3):
        guesses.take(ANA)
    with pytest.raises(ResourceExhaustedError, match="username: too many wrong passwords; try again in 10 s"):
        guesses.take(ANA)
    guesses.take(BEN)
    await clock.advance(10.0)
    guesses.take(ANA)
    with pytest.raises(ResourceExhaustedError):
        guesses.take(ANA)


async def test_the_right_one_makes_good_the_wrong_ones_before_it() -> None:
    guesses = Guesses(FakeClock(), at_once=3, per_minute=6)
    for _ in range(4):
        guesses.take(ANA)
        guesses.take(ANA)
        guesses.right(ANA)


async def test_names_that_are_guessed_at_most_are_remembered_longest() -> None:
    guesses = Guesses(FakeClock(), at_once=2, per_minute=6, names=2)
    guesses.take(ANA)
    guesses.take(ANA)
    for number in range(50):
        guesses.take(AccountId(f"user-{number}"))
    with pytest.raises(ResourceExhaustedError):
        guesses.take(ANA)


async def test_names_whose_guesses_are_made_good_are_forgotten_first() -> None:
    clock = FakeClock()
    guesses = Guesses(clock, at_once=1, per_minute=6, names=2)
    guesses.take(ANA)
    await clock.advance(10.0)
    guesses.take(BEN)
    guesses.take(AccountId("cleo"))
    with pytest.raises(ResourceExhaustedError):
        guesses.take(BEN)
