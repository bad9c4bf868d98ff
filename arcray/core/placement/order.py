"""Order: every node that takes work, sorted by the scores that depend on the node alone, in blocks.

Finding the best node is finding the first in this order that fits. A block of up to 64 nodes knows the peak of each
resource among its nodes, so that whole blocks are passed over with one comparison per resource; only a block whose
peaks suffice is looked into. Both steps are a few numpy calls, whose cost hardly depends on the length: that is what
keeps a decision flat from 1,000 to 100,000 nodes. A change moves one node from one block to another.

Peaks are exact. The node that is chosen is often the one that held a peak, so peaks that wait until they mislead a
search do so all the time: 3.6 blocks for each decision at 100,000 nodes. Marks change seldom; they are upper bounds,
made exact again when a search was misled.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from arcray.core.placement.columns import Columns, Integers
from arcray.core.placement.scores import Standing

__all__ = ["Order"]

_BLOCK: Final = 64  # measured: 128 costs the same, 256 costs 10 % more at 100,000 nodes
_SPARSE: Final = _BLOCK // 4
_FEW: Final = 4  # blocks looked into at once after the first has misled; four times as many after that


class Order:
    """The sorted index. Slots are those of the columns it reads."""

    __slots__ = ("_columns", "_keys", "_last", "_marks", "_peaks", "_rows", "_slots")

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        # One entry per block, in order. A block's slots are an array so that numpy can read them without a copy.
        self._keys: list[list[Standing]] = []
        self._slots: list[array[int]] = []
        self._last: list[Standing] = []
        self._marks: Integers = np.zeros(16, np.int64)
        self._peaks: Integers = np.zeros((len(columns.rows), 16), np.int64)  # a column per block
        self._rows: list[Integers] = []  # the rows of ``_peaks`` as far as there are blocks
        self._cut_rows()

    def __len__(self) -> int:
        return sum(map(len, self._keys))

    def add(self, slot: int, key: Standing) -> None:
        """Adds a node; its columns are written before."""
        if not self._keys:
            self._open_block(0, [key], array("q", [slot]))
            return
        block = min(bisect_left(self._last, key), len(self._last) - 1)
        keys = self._keys[block]
        index = bisect_left(keys, key)
        keys.insert(index, key)
        self._slots[block].insert(index, slot)
        self._last[block] = keys[-1]
        peaks = self._peaks[:, block]
        np.maximum(peaks, self._columns.profiles[slot], out=peaks)
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
        if not keys:
            self._close_block(block)
            return
        self._last[block] = keys[-1]
        self._tighten(block)
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
        if not self._keys:
            return None
        rows = self._rows
        promising = None
        for row, least in (*minima, *bounds):
            suffices = rows[row] >= least
            promising = suffices if promising is None else promising & suffices
        if mark:
            carried = (self._marks[: len(self._keys)] & mark) != 0
            promising = carried if promising is None else promising & carried
        if promising is None:
            promising = np.ones(len(self._keys), np.bool_)
        block = int(promising.argmax())
        if not promising[block]:
            return None
        slot = self._first_of(self._slots[block], minima, mark, without)
        if slot is not None:
            return slot
        if mark:
            self._mark([block])
        return self._first_later((promising[block + 1 :].nonzero()[0] + (block + 1)).tolist(), minima, mark, without)

    def add_rows(self) -> None:
        """Follows the columns after they grew rows."""
        missing = len(self._columns.rows) - len(self._peaks)
        self._peaks = np.pad(self._peaks, ((0, missing), (0, 0)))
        self._cut_rows()

    def mark_anew(self) -> None:
        """Follows the columns after marks of many nodes changed."""
        if self._keys:
            self._mark(range(len(self._keys)))

    def _first_later(
        self, blocks: list[int], minima: Sequence[tuple[int, int]], mark: int, without: Container[int]
    ) -> int | None:
        """Looks into the rest of the promising blocks, more at once each time: a few calls are cheaper than many."""
        many = _FEW
        while blocks:
            slots = b"".join([self._slots[block] for block in blocks[:many]])
            slot = self._first_of(slots, minima, mark, without)
            if slot is not None:
                return slot
            if mark:
                self._mark(blocks[:many])
            del blocks[:many]
            many *= _FEW
        return None

    def _first_of(
        self, slots: array[int] | bytes, minima: Sequence[tuple[int, int]], mark: int, without: Container[int]
    ) -> int | None:
        """Returns the first of some slots, given as bytes of 64-bit integers, that has enough; None without one."""
        columns = self._columns
        places = np.frombuffer(slots, np.int64)
        fits = None
        for row, least in minima:
            suffices = columns.rows[row].take(places) >= least
            fits = suffices if fits is None else fits & suffices
        if mark:
            carried = (columns.marks.take(places) & mark) != 0
            fits = carried if fits is None else fits & carried
        if fits is None:
            fits = np.ones(len(places), np.bool_)
        index = int(fits.argmax())
        while fits[index]:
            slot = int(places[index])
            if slot not in without:
                return slot
            fits[index] = False
            index = int(fits.argmax())
        return None

    def _tighten(self, block: int) -> None:
        """Makes a block's peaks exact: all of them, because that costs less than to find out which have changed."""
        places = np.frombuffer(self._slots[block], np.int64)
        self._peaks[:, block] = np.maximum.reduce(self._columns.profiles.take(places, axis=0))

    def _mark(self, blocks: Sequence[int]) -> None:
        """Makes the marks of some blocks exact."""
        lengths = [len(self._keys[block]) for block in blocks]
        places = np.frombuffer(b"".join([self._slots[block] for block in blocks]), np.int64)
        starts = list(accumulate(lengths[:-1], initial=0))
        self._marks[blocks] = np.bitwise_or.reduceat(self._columns.marks.take(places), starts)

    def _split(self, block: int) -> None:
        keys, slots = self._keys[block], self._slots[block]
        half = len(keys) // 2
        self._open_block(block + 1, keys[half:], slots[half:])
        del keys[half:], slots[half:]
        self._last[block] = keys[-1]
        self._tighten(block)
        self._mark([block])

    def _join(self, block: int) -> None:
        """Joins a sparse block with the one after it where both fit into half a block."""
        after = block + 1
        if after == len(self._keys) or len(self._keys[block]) + len(self._keys[after]) > _BLOCK // 2:
            return
        self._keys[block] += self._keys[after]
        self._slots[block] += self._slots[after]
        self._last[block] = self._last[after]
        peaks = self._peaks[:, block]
        np.maximum(peaks, self._peaks[:, after], out=peaks)
        self._marks[block] |= self._marks[after]
        self._close_block(after)

    def _open_block(self, block: int, keys: list[Standing], slots: array[int]) -> None:
        """Inserts a block; ``keys`` may not be empty."""
        count = len(self._keys)
        if count == len(self._marks):
            self._peaks = np.pad(self._peaks, ((0, 0), (0, count)))
            self._marks = np.pad(self._marks, (0, count))
        self._keys.insert(block, keys)
        self._slots.insert(block, slots)
        self._last.insert(block, keys[-1])
        self._peaks[:, block + 1 : count + 1] = self._peaks[:, block:count]
        self._marks[block + 1 : count + 1] = self._marks[block:count]
        self._tighten(block)
        self._mark([block])
        self._cut_rows()

    def _close_block(self, block: int) -> None:
        count = len(self._keys)
        del self._keys[block], self._slots[block], self._last[block]
        self._peaks[:, block : count - 1] = self._peaks[:, block + 1 : count]
        self._marks[block : count - 1] = self._marks[block + 1 : count]
        self._cut_rows()

    def _cut_rows(self) -> None:
        """Follows ``_peaks`` or the number of blocks: once per change of either instead of in every search."""
        self._rows = list(self._peaks[:, : len(self._keys)])
