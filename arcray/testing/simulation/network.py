"""The network between actors: late, lost, doubled and stale, in both directions.

Every call is a request and an answer, each on its own way. A request that is lost, or whose answer is, ends for its
sender after ``PATIENCE_S``: it then knows nothing of what happened. A doubled request arrives once more, later, when
everybody has forgotten it, and nobody hears the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

from arcray.core.errors import ArcrayError, UnavailableError
from arcray.testing.simulation.trace import Trace

__all__ = ["CALM", "Network", "Weather"]

_T = TypeVar("_T")
PATIENCE_S: Final = 1.5
_STALE_S: Final = 6.0  # latest arrival of a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad it is.

    Args:
        lost, doubled: chance of each message.
        delay_s: longest time on the way; the shortest is none.
    """

    lost: float = 0.0
    doubled: float = 0.0
    delay_s: float = 0.002


CALM: Final = Weather()


class Network:
    """All wires."""

    def __init__(self, dice: Random, trace: Trace) -> None:
        self.weather = CALM
        self._dice = dice
        self._trace = trace
        self._copies: set[asyncio.Task[None]] = set()

    async def call(self, what: str, request: Callable[[], Awaitable[_T]]) -> _T:
        """Has ``request`` happen at the other end, and returns its answer.

        Raises:
            UnavailableError: the request or its answer was lost.
            ArcrayError: what the other end raised.
        """
        if self._happens(self.weather.doubled):
            copy = asyncio.ensure_future(self._again(what, request))
            self._copies.add(copy)
            copy.add_done_callback(self._copies.discard)
        await self._on_the_way(what)
        answer = await request()
        await self._on_the_way(f"the answer to {what}")
        return answer

    async def quiet(self) -> None:
        """Waits until no copy is on its way."""
        while self._copies:
            await asyncio.wait(set(self._copies))

    async def _on_the_way(self, what: str) -> None:
        if self._happens(self.weather.lost):
            self._trace.say("network", f"loses {what}")
            await asyncio.sleep(PATIENCE_S)
            raise UnavailableError(f"{what} was lost")
        delay_s = self._dice.random() * self.weather.delay_s
        if delay_s:
            await asyncio.sleep(delay_s)

    async def _again(self, what: str, request: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.sleep(self._dice.random() * _STALE_S)
        self._trace.say("network", f"delivers a copy of {what}")
        try:
            await request()
        except ArcrayError as error:
            self._trace.say("network", f"the copy of {what} was refused: {error}")

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._dice.random() < chance
