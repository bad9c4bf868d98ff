from __future__ import annotations

import asyncio

import pytest

from arcray.control.loops import FaultError, contain, contain_async, forever
from arcray.core.errors import NotFoundError
from arcray.testing.clock import FakeClock


def fail(error: Exception) -> int:
    raise error


async def fail_later(error: Exception) -> int:
    raise error


async def test_an_error_of_ours_is_returned() -> None:
    error = NotFoundError()
    assert contain(fail, error) is error
    assert await contain_async(fail_later(error), "here") is error


async def test_a_foreign_exception_is_logged_and_becomes_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(contain(fail, ZeroDivisionError()), FaultError)
    assert isinstance(await contain_async(fail_later(KeyError("x")), "here"), FaultError)
    assert "ZeroDivisionError" in caplog.text
    assert "KeyError" in caplog.text


async def test_a_loop_goes_on_after_a_fault_and_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    loop = asyncio.create_task(forever(turn, clock, "test"))
    await clock.advance(0.05)
    assert turns == 1
    await clock.advance(0.1)
    assert turns == 2
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    assert "ZeroDivisionError" in caplog.text
