"""Columns: what is free on every node, as numpy columns with one slot per node.

The one truth that filters, the sorted index and explanations read. A slot is reused after its node has left. Rows of
``values`` are resources, so that a filter reads contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ABSENT",
    "CPU",
    "DEVICES",
    "DISK",
    "IDLE",
    "MEMORY",
    "OPEN",
    "SHARE",
    "Columns",
    "Integers",
    "Slots",
    "pair_bound",
]

Integers: TypeAlias = NDArray[np.int64]
Slots: TypeAlias = NDArray[np.int64]

CPU: Final = 0  # milli-cpu free
MEMORY: Final = 1  # bytes free
DISK: Final = 2  # bytes free
IDLE: Final = 3  # whole GPUs free
OPEN: Final = 4  # most memory left on a GPU that is already shared
DEVICES: Final = 5  # GPUs there are
PAIR: Final = 6  # this and the next rows: free memory or free CPU at some rate, whichever is less; see pair_bound
_RATES: Final = tuple(1 << power for power in range(19, 26))  # bytes per milli-cpu: half a GiB to 32 GiB for a core
SHARE: Final = PAIR + len(
    _RATES
)  # this and the rows after it: the largest, second largest, ... left on a shareable GPU

_RATES_COLUMN: Final[Integers] = np.array(_RATES, np.int64)
_MAX_PAIRED: Final = 1 << 37  # milli-cpu; keeps the product in int64, and no machine has more
ABSENT: Final = 1  # status of a slot without a node; the bits of the filters are above it
_FIRST_SLOTS: Final = 256
_FIRST_DEVICES: Final = 8


class Columns:
    """Growing columns.

    Attributes:
        values: one row per resource, one column per slot.
        rows: the rows of ``values`` as views, because indexing a list is cheaper.
        status: word of filter bits that hold for every request: absent, unschedulable.
        groups: number of the node's set of features.
        marks: bits of the scopes that the node belongs to.
        size: slots in use or used before; everything beyond is untouched.
    """

    __slots__ = ("_vacant", "groups", "marks", "rows", "size", "status", "values")

    def __init__(self) -> None:
        self.size = 0
        self.values: Integers = np.zeros((SHARE + _FIRST_DEVICES, _FIRST_SLOTS), np.int64)
        self.rows: list[Integers] = list(self.values)
        self.status: NDArray[np.uint16] = np.full(_FIRST_SLOTS, ABSENT, np.uint16)
        self.groups: Integers = np.zeros(_FIRST_SLOTS, np.int64)
        self.marks: Integers = np.zeros(_FIRST_SLOTS, np.int64)
        self._vacant: list[int] = []

    def open_slot(self) -> int:
        """Returns a slot for a new node."""
        if self._vacant:
            return self._vacant.pop()
        capacity = len(self.status)
        if self.size == capacity:
            self.values = np.pad(self.values, ((0, 0), (0, capacity)))
            self.rows = list(self.values)
            self.status = np.pad(self.status, (0, capacity))
            self.groups = np.pad(self.groups, (0, capacity))
            self.marks = np.pad(self.marks, (0, capacity))
        self.size += 1
        return self.size - 1

    def close_slot(self, slot: int) -> None:
        """Frees the slot of a node that left."""
        self.status[slot] = ABSENT
        self._vacant.append(slot)

    def require_devices(self, count: int) -> bool:
        """Makes sure that there is a share row for each of ``count`` devices; returns whether rows were added."""
        missing = SHARE + count - len(self.rows)
        if missing <= 0:
            return False
        self.values = np.pad(self.values, ((0, missing), (0, 0)))
        self.rows = list(self.values)
        return True

    def write(self, slot: int, cpu_milli: int, memory_bytes: int, disk_bytes: int) -> None:
        """Writes what is free of everything but GPUs."""
        rows = self.rows
        rows[CPU][slot] = cpu_milli
        rows[MEMORY][slot] = memory_bytes
        rows[DISK][slot] = disk_bytes
        self.values[PAIR:SHARE, slot] = np.minimum(_RATES_COLUMN * min(cpu_milli, _MAX_PAIRED), memory_bytes)

    def write_gpus(self, slot: int, idle: int, open_bytes: int, present: int, shareable_bytes: Sequence[int]) -> None:
        """Writes what is free of the GPUs; ``shareable_bytes`` is sorted, largest first."""
        rows = self.rows
        rows[IDLE][slot] = idle
        rows[OPEN][slot] = open_bytes
        rows[DEVICES][slot] = present
        padding = [0] * (len(rows) - SHARE - len(shareable_bytes))
        self.values[SHARE:, slot] = [*shareable_bytes, *padding]


def pair_bound(cpu_milli: int, memory_bytes: int) -> tuple[int, int]:
    """Returns the pair row and the least value in it that a node needs to fit both quantities, each at least 1.

    The peaks of many nodes say little: one has CPU to spare and no memory, the next one the opposite. The lesser of the
    two, taken at a rate near the demand's own, tells those apart from nodes that have both. It is a bound, not a test.
    """
    index = min(max((memory_bytes // cpu_milli).bit_length() - 20, 0), len(_RATES) - 1)
    return PAIR + index, min(_RATES[index] * min(cpu_milli, _MAX_PAIRED), memory_bytes)
