"""Columns: what is free on every node, as numpy columns with one slot per node.

The one truth that filters, the sorted index and explanations read. A slot is reused after its node has left. It is
kept twice: by resource, so that a filter reads contiguous memory, and by node, so that a block of the index finds what
it needs of each of its nodes in one place (measured: 3.4 us instead of 8.4 for 64 of 100,000 nodes).
"""

from __future__ import annotations

from bisect import bisect_right
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

# Bytes per milli-cpu, two to the octave: half a GiB to 45 GiB for a core.
_RATES: Final = tuple(round(2 ** (halves / 2)) for halves in range(38, 52))

CPU: Final = 0  # milli-cpu free
MEMORY: Final = 1  # bytes free
DISK: Final = 2  # bytes free
PAIR: Final = 3  # this and the next rows: free memory or free CPU at some rate, whichever is less; see pair_bound
IDLE: Final = PAIR + len(_RATES)  # whole GPUs free
OPEN: Final = IDLE + 1  # most memory left on a GPU that is already shared
DEVICES: Final = IDLE + 2  # GPUs there are
SHARE: Final = IDLE + 3  # this and the rows after it: the largest, second largest, ... left on a shareable GPU

_RATES_ROW: Final[Integers] = np.array(_RATES, np.int64)
_MAX_PAIRED: Final = 1 << 37  # milli-cpu; keeps the product in int64, and no machine has more
ABSENT: Final = 1  # status of a slot without a node; the bits of the filters are above it
_FIRST_SLOTS: Final = 256
_FIRST_DEVICES: Final = 8


class Columns:
    """Growing columns.

    Attributes:
        rows: one array per resource, with one value per slot; empty for pairs, which no filter reads.
        profiles: one row per slot, with all resources and pairs of its node.
        status: word of filter bits that hold for every request: absent, unschedulable, full.
        groups: number of the node's set of features.
        marks: bits of the scopes that the node belongs to.
        versions: grow whenever what is free of a slot's node is written.
        size: slots in use or used before; everything beyond is untouched.
    """

    __slots__ = ("_vacant", "groups", "marks", "profiles", "rows", "size", "status", "versions")

    def __init__(self) -> None:
        self.size = 0
        self.profiles: Integers = np.zeros((_FIRST_SLOTS, SHARE + _FIRST_DEVICES), np.int64)
        self.rows: list[Integers] = [
            np.zeros(0 if PAIR <= row < IDLE else _FIRST_SLOTS, np.int64) for row in range(SHARE + _FIRST_DEVICES)
        ]
        self.status: NDArray[np.uint16] = np.full(_FIRST_SLOTS, ABSENT, np.uint16)
        self.groups: Integers = np.zeros(_FIRST_SLOTS, np.int64)
        self.marks: Integers = np.zeros(_FIRST_SLOTS, np.int64)
        self.versions: Integers = np.zeros(_FIRST_SLOTS, np.int64)
        self._vacant: list[int] = []

    def open_slot(self) -> int:
        """Returns a slot for a new node."""
        if self._vacant:
            return self._vacant.pop()
        capacity = len(self.status)
        if self.size == capacity:
            self.profiles = np.pad(self.profiles, ((0, capacity), (0, 0)))
            self.rows = [np.pad(row, (0, len(row))) for row in self.rows]
            self.status = np.pad(self.status, (0, capacity))
            self.groups = np.pad(self.groups, (0, capacity))
            self.marks = np.pad(self.marks, (0, capacity))
            self.versions = np.pad(self.versions, (0, capacity))
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
        self.profiles = np.pad(self.profiles, ((0, 0), (0, missing)))
        self.rows += [np.zeros(len(self.status), np.int64) for _ in range(missing)]
        return True

    def write(self, slot: int, cpu_milli: int, memory_bytes: int, disk_bytes: int) -> None:
        """Writes what is free of everything but GPUs."""
        rows = self.rows
        rows[CPU][slot] = cpu_milli
        rows[MEMORY][slot] = memory_bytes
        rows[DISK][slot] = disk_bytes
        self.versions[slot] += 1
        profile = self.profiles[slot]
        profile[CPU], profile[MEMORY], profile[DISK] = cpu_milli, memory_bytes, disk_bytes
        pairs = profile[PAIR:IDLE]
        np.multiply(_RATES_ROW, min(cpu_milli, _MAX_PAIRED), out=pairs)
        np.minimum(pairs, memory_bytes, out=pairs)

    def write_gpus(self, slot: int, idle: int, open_bytes: int, present: int, shareable_bytes: Sequence[int]) -> None:
        """Writes what is free of the GPUs; ``shareable_bytes`` is sorted, largest first."""
        rows = self.rows
        padding = [0] * (len(rows) - SHARE - len(shareable_bytes))
        values = [idle, open_bytes, present, *shareable_bytes, *padding]
        self.profiles[slot, IDLE:] = values
        for row, value in enumerate(values, IDLE):
            rows[row][slot] = value


def pair_bound(cpu_milli: int, memory_bytes: int) -> tuple[int, int]:
    """Returns the pair row and the least value in it that a node needs to fit both quantities, each at least 1.

    The peaks of many nodes say little: one has CPU to spare and no memory, the next one the opposite. The lesser of the
    two, taken at a rate near the demand's own, tells those apart from nodes that have both. It is a bound, not a test.
    """
    index = max(bisect_right(_RATES, memory_bytes // cpu_milli) - 1, 0)
    return PAIR + index, min(_RATES[index] * min(cpu_milli, _MAX_PAIRED), memory_bytes)
