"""Units. Inside core every quantity is an integer in its smallest unit: bytes, milli-cpu, credits.

Wire units end in a facade's ``translate.py``, which uses the factors here and nothing else.
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import InvalidArgumentError

__all__ = ["CPU_MILLI", "GB", "GIB", "MAX_QUANTITY", "MB", "MIB", "bounded", "milli_cpu"]

MIB: Final = 1 << 20  # what "MB" means on every wire, storage of the Resource Pool excepted
GIB: Final = 1 << 30  # what "GB" means on every wire, datasetSizeGb excepted
MB: Final = 10**6
GB: Final = 10**9
CPU_MILLI: Final = 1000  # one core

MAX_QUANTITY: Final = 2**53 - 1  # the largest integer that every JSON reader keeps exact; fits a SQL BIGINT too


def milli_cpu(cores: float) -> int:
    """Returns cores as milli-cpu, rounded to the nearest."""
    return round(cores * CPU_MILLI)


def bounded(value: int, field: str, *, low: int = 0, high: int = MAX_QUANTITY) -> int:
    """Returns value when low <= value <= high.

    Raises:
        InvalidArgumentError: names ``field`` and the range.
    """
    if not low <= value <= high:
        raise InvalidArgumentError(f"must be between {low} and {high}, got {value}", field=field)
    return value
