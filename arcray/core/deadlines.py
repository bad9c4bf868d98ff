"""Deadlines: what is due when, where most of it is over long before.

One heap entry each. What is over is passed by when it comes up, and swept out once it may be half of the heap, so a
deadline costs a logarithm whatever becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

__all__ = ["Deadlines"]

_Key = TypeVar("_Key", bound=str | tuple[str, ...])  # it decides among those that are due at once

_FEW: Final = 64  # entries that are not worth sweeping


class Deadlines(Generic[_Key]):
    """Keys by the time at which they are due.

    Args:
        holds: whether a key is still due at this time.
    """

    def __init__(self, holds: Callable[[datetime, _Key], bool]) -> None:
        self._holds = holds
        self._heap: list[tuple[datetime, _Key]] = []
        self._swept = 0  # entries left by the last sweep

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: datetime, key: _Key) -> None:
        """Takes up a deadline that holds."""
        if len(self._heap) >= 2 * self._swept + _FEW:
            self._heap = [entry for entry in self._heap if self._holds(*entry)]
            heapify(self._heap)
            self._swept = len(self._heap)
        heappush(self._heap, (due, key))

    def next_due(self) -> datetime | None:
        """Returns when the next key is due."""
        while self._heap and not self._holds(*self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def over(self, now: datetime) -> Iterator[_Key]:
        """Yields the keys that are due; the reader ends each before it asks for the next."""
        while (due := self.next_due()) is not None and due <= now:
            yield heappop(self._heap)[1]
