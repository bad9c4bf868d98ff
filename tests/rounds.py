"""Tests that look at more when there is more time: a few rounds in every run, many in ``make chaos``."""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["CHAOS", "LookedAt", "rounds"]

CHAOS = os.environ.get("ARCRAY_CHAOS", "") == "1"


def rounds(few: int, many: int) -> int:
    """Returns how many rounds this run takes; mark such a test with ``chaos``."""
    return many if CHAOS else few


class LookedAt(Protocol):
    """The fixture ``looked_at``: takes by how much a test looked at what; ``make chaos`` ends with the sums."""

    def __call__(self, **figures: int) -> None:
        """Adds to the figures of this run, for example ``looked_at(rows=1_000_000)``."""
        ...
