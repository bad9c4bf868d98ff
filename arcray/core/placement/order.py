"""Order: every node that takes work, sorted by the scores that depend on the node alone, in blocks.

Finding the best node is finding the first in this order that fits. A block of up to 256 nodes knows the peak of each
resource among its nodes, so that whole blocks are passed over with one comparison per resource; only a block whose
peaks suffice is looked into. Both steps are a few numpy calls, whose cost hardly depends on the length: that is what
keeps a decision flat from 1,000 to 100,000 nodes. A change moves one node from one block to another.

Peaks are upper bounds. A node that joins a block raises them at once; after a node has left they may be too high, and
they are made exact again when that misled a search.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from typing import Final

import numpy as np

from arcray.core.placement.columns import Columns, Integers
from arcray.core.placement.scores import Standing

__all__ = ["Order"]

_BLOCK: Final = 256  # measured: 128 and 512 cost 10 to 20 % more at 100,000 nodes
_MARKS_LOOSE: Final = 100  # more than there are rows
_LOOSE: Final = (1 << (_MARKS_LOOSE + 1)) - 1
_SPARSE: Final = _BLOCK // 4


class Order:
    """The sorted index. Slots are those of the columns it reads."""

    __slots__ = ("_columns", "_keys", "_last", "_loose", "_marks", "_peaks", "_slots")

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        # One entry per block, in order. A block's slots are an array so that numpy can read them without a copy.
        self._keys: list[list[Standing]] = []
        self._slots: list[array[int]] = []
        self._last: list[Standing] = []
        self._loose: list[int] = []  # bit per row whose peak may be too high
        self._peaks: Integers = np.zeros((16, len(columns.rows)), np.int64)
        self._marks: Integers = np.zeros(16, np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._keys))

    def add(self, slot: int, key: Standing) -> None:
        """Adds a node; its columns are written before."""
        if not self._keys:
            self._open_block(0, [key], array("q", [slot]))
            self._tighten(0, range(len(self._columns.rows)))
            return
        block = min(bisect_left(self._last, key), len(self._last) - 1)
        keys = self._keys[block]
        index = bisect_left(keys, key)
        keys.insert(index, key)
        self._slots[block].insert(index, slot)
        self._last[block] = keys[-1]
        peaks = self._peaks[block]
        np.maximum(peaks, self._columns.values[:, slot], out=peaks)
        self._marks[block] |= self._columns.marks[slot]
        if len(keys) > _BLOCK:
            self._split(block)

    def discard(self, key: Standing) -> None:
        """Takes a node out; ``key`` is the one that it was added with."""
        block = bisect_left(self._last, key)
        keys = self._keys[block]
        index = bisect_left(keys, key)
        assert keys[index] == key, "the order lost a node"
        del keys[index]
        del self._slots[block][index]
        self._loose[block] = _LOOSE
        if not keys:
            self._close_block(block)
            return
        self._last[block] = keys[-1]
        if len(keys) < _SPARSE:
            self._join(block)

    def first(
        self,
        minima: Sequence[tuple[int, int]],
        bounds: Sequence[tuple[int, int]] = (),
        mark: int = 0,
        without: Container[int] = (),
    ) -> int | None:
        """Returns the first slot in order that has enough of everything, None without one.

        Args:
            minima: (row, least value) pairs that the node must have.
            bounds: the same, for what follows from ``minima`` and tells blocks apart better.
            mark: a bit that the node must carry; 0 asks for none.
            without: slots that are passed over.
        """
        count = len(self._keys)
        if not count:
            return None
        peaks = self._peaks[:count]
        promising = np.ones(count, np.bool_)
        for row, least in (*minima, *bounds):
            promising &= peaks[:, row] >= least
        if mark:
            promising &= (self._marks[:count] & mark) != 0
        block = int(promising.argmax())
        while promising[block]:
            slot = self._first_in(block, minima, mark, without)
            if slot is not None:
                return slot
            self._tighten(block, [row for row, _ in (*minima, *bounds)])
            promising[block] = False
            block = int(promising.argmax())
        return None

    def add_rows(self) -> None:
        """Follows the columns after they grew rows."""
        missing = len(self._columns.rows) - self._peaks.shape[1]
        self._peaks = np.pad(self._peaks, ((0, 0), (0, missing)))

    def mark_anew(self) -> None:
        """Follows the columns after marks of many nodes changed."""
        for block, slots in enumerate(self._slots):
            self._marks[block] = np.bitwise_or.reduce(self._columns.marks.take(np.frombuffer(slots, np.int64)))

    def _first_in(
        self, block: int, minima: Sequence[tuple[int, int]], mark: int, without: Container[int]
    ) -> int | None:
        columns = self._columns
        slots = self._slots[block]
        places = np.frombuffer(slots, np.int64)
        fits = np.ones(len(places), np.bool_) if not minima else None
        for row, least in minima:
            enough = columns.rows[row].take(places) >= least
            fits = enough if fits is None else fits & enough
        assert fits is not None
        if mark:
            fits &= (columns.marks.take(places) & mark) != 0
        index = int(fits.argmax())
        while fits[index]:
            slot = slots[index]
            if slot not in without:
                return slot
            fits[index] = False
            index = int(fits.argmax())
        return None

    def _tighten(self, block: int, rows: Iterable[int]) -> None:
        """Makes a block's marks and its peaks in some rows exact."""
        loose = self._loose[block]
        if not loose:
            return
        places = np.frombuffer(self._slots[block], np.int64)
        peaks = self._peaks[block]
        for row in rows:
            if loose >> row & 1:
                peaks[row] = self._columns.rows[row].take(places).max()
                loose ^= 1 << row
        if loose >> _MARKS_LOOSE & 1:
            self._marks[block] = np.bitwise_or.reduce(self._columns.marks.take(places))
            loose ^= 1 << _MARKS_LOOSE
        self._loose[block] = loose

    def _split(self, block: int) -> None:
        keys, slots = self._keys[block], self._slots[block]
        half = len(keys) // 2
        self._open_block(block + 1, keys[half:], slots[half:])
        del keys[half:]
        del slots[half:]
        self._last[block] = keys[-1]
        self._loose[block] = _LOOSE
        self._tighten(block, range(len(self._columns.rows)))
        self._tighten(block + 1, range(len(self._columns.rows)))

    def _join(self, block: int) -> None:
        """Joins a sparse block with the one after it where both fit into half a block."""
        after = block + 1
        if after == len(self._keys) or len(self._keys[block]) + len(self._keys[after]) > _BLOCK // 2:
            return
        self._keys[block] += self._keys[after]
        self._slots[block] += self._slots[after]
        self._last[block] = self._last[after]
        np.maximum(self._peaks[block], self._peaks[after], out=self._peaks[block])
        self._marks[block] |= self._marks[after]
        self._close_block(after)

    def _open_block(self, block: int, keys: list[Standing], slots: array[int]) -> None:
        """Inserts a block; its peaks are to be tightened next."""
        count = len(self._keys)
        if count == len(self._marks):
            self._peaks = np.pad(self._peaks, ((0, count), (0, 0)))
            self._marks = np.pad(self._marks, (0, count))
        self._keys.insert(block, keys)
        self._slots.insert(block, slots)
        self._last.insert(block, keys[-1])
        self._loose.insert(block, _LOOSE)
        self._peaks[block + 1 : count + 1] = self._peaks[block:count]
        self._marks[block + 1 : count + 1] = self._marks[block:count]
        self._peaks[block] = 0
        self._marks[block] = 0

    def _close_block(self, block: int) -> None:
        count = len(self._keys)
        del self._keys[block], self._slots[block], self._last[block], self._loose[block]
        self._peaks[block : count - 1] = self._peaks[block + 1 : count]
        self._marks[block : count - 1] = self._marks[block + 1 : count]
