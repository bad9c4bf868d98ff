from __future__ import annotations

import asyncio

import pytest

from arcray.wire.sockets import Places, until_one_ends


def test_places_are_given_back_whatever_happened() -> None:
    places = Places(1)

    def fails() -> None:
        with places.one():
            assert (places.taken, places.are_full) == (1, True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (places.taken, places.are_full) == (0, False)


async def test_the_first_that_ends_ends_the_others() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await until_one_ends(asyncio.sleep(0), endless())
    assert ended.is_set()


async def test_a_fault_of_ours_is_raised() -> None:
    async def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_one_ends(asyncio.Event().wait(), failing())
