"""How a client finds the scheduler's line while one scheduler dies and the next one starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from arcray.core.errors import UnavailableError
from arcray.drivers.ray_actor import Handles
from arcray.runtime.line import LineAddress
from arcray.runtime.scheduler_handle import SchedulerHandle

AT_ONCE = (0.0, 0.0, 0.0)
ADDRESS = LineAddress(host="127.0.0.1", port=1, path="", key=b"", ray_node_id="here")


class Answers(Handles):
    """Handles of an actor whose calls are answered by these, one after the other."""

    def __init__(self, *answers: asyncio.Future[Any]) -> None:
        super().__init__()
        self.asked = 0
        self.all_asked = asyncio.Event()
        self._answers = answers

    async def get(self, name: str) -> Any:
        _ = name
        return SimpleNamespace(line=SimpleNamespace(remote=self._ask))

    def _ask(self) -> Awaitable[Any]:
        self.asked += 1
        if self.asked == len(self._answers):
            self.all_asked.set()
        return self._answers[self.asked - 1]


def hanging() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def answer(value: object) -> asyncio.Future[Any]:
    future = hanging()
    future.set_result(value)
    return future


async def test_a_call_to_a_scheduler_that_died_is_not_waited_for() -> None:
    handles = Answers(hanging(), hanging(), answer(ADDRESS))
    assert await SchedulerHandle(client="c", handles=handles, patience_s=AT_ONCE).line() == ADDRESS
    assert handles.asked == 3


async def test_an_answer_to_an_earlier_call_counts_too() -> None:
    late = hanging()
    handles = Answers(late, hanging(), hanging(), hanging())
    asking = asyncio.ensure_future(SchedulerHandle(client="c", handles=handles, patience_s=AT_ONCE).line())
    await handles.all_asked.wait()
    late.set_result(ADDRESS)
    assert await asking == ADDRESS


async def test_a_scheduler_that_does_not_serve_says_why() -> None:
    handles = Answers(hanging(), answer(UnavailableError("the disk is full")))
    with pytest.raises(UnavailableError, match="the disk is full"):
        await SchedulerHandle(client="c", handles=handles, patience_s=AT_ONCE).line()


async def test_one_call_is_enough_for_a_scheduler_that_serves() -> None:
    handles = Answers(answer(ADDRESS))
    assert await SchedulerHandle(client="c", handles=handles).line() == ADDRESS
    assert handles.asked == 1
