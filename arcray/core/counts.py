"""Counts of inference since the scheduler started."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["InferenceCounts"]

_LATENCIES_KEPT: Final = 4096


class InferenceCounts:
    """Counters since the scheduler started, and the newest latencies in milliseconds."""

    __slots__ = ("completed", "dispatched", "failed", "latencies_ms", "rejected")

    def __init__(self) -> None:
        self.dispatched = 0
        self.completed = 0
        self.failed = 0
        self.rejected = 0
        self.latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)
