"""How long recent work took and how often it started, by shape: what estimates are made of.

A *shape* is what work asks of placement, or the model that a request names. Volatile and bounded: the newest ends of
the newest shapes. After a restart it begins with the finished work that recovery reads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = ["Durations", "Spread"]

_SHAPES: Final = 512
_ENDS: Final = 32  # kept of each shape
_FEWEST: Final = 3  # fewer than this are no history


class Spread(NamedTuple):
    """The lower and the upper quartile, in seconds."""

    low_s: float
    high_s: float


class _Record:
    __slots__ = ("durations_s", "starts")

    def __init__(self) -> None:
        self.durations_s: deque[float] = deque(maxlen=_ENDS)
        self.starts: deque[datetime] = deque(maxlen=_ENDS)


class Durations:
    """The record of each shape."""

    def __init__(self) -> None:
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def ended(self, shape: Hashable, seconds: float) -> None:
        """Notes how long an attempt held its place."""
        self._of(shape).durations_s.append(seconds)

    def started(self, shape: Hashable, at: datetime) -> None:
        """Notes that an attempt got its place."""
        self._of(shape).starts.append(at)

    def duration(self, shape: Hashable) -> Spread | None:
        """Returns how long such work takes; None without history."""
        record = self._records.get(shape)
        return None if record is None else _spread(list(record.durations_s))

    def interval(self, shape: Hashable) -> Spread | None:
        """Returns the time between starts of such work; None without history."""
        record = self._records.get(shape)
        if record is None:
            return None
        starts = list(record.starts)
        gaps = [(after - before).total_seconds() for before, after in pairwise(starts)]
        return _spread(gaps)

    def _of(self, shape: Hashable) -> _Record:
        record = self._records.get(shape)
        if record is None:
            record = self._records[shape] = _Record()
            if len(self._records) > _SHAPES:
                self._records.popitem(last=False)  # the one whose turn was longest ago
        else:
            self._records.move_to_end(shape)
        return record


def _spread(values: list[float]) -> Spread | None:
    if len(values) < _FEWEST:
        return None
    values.sort()
    quarter = (len(values) - 1) // 4
    return Spread(values[quarter], values[-1 - quarter])
