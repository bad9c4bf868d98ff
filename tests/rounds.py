"""Tests that look at more when there is more time: a few rounds in every run, many in ``make chaos``."""

from __future__ import annotations

import os

__all__ = ["CHAOS", "rounds"]

CHAOS = os.environ.get("ARCRAY_CHAOS", "") == "1"


def rounds(few: int, many: int) -> int:
    """Returns how many rounds this run takes; mark such a test with ``chaos``."""
    return many if CHAOS else few
