"""Ranks: a number for each node id, in the order of the ids, so that ties of scores are settled by comparing numbers.

A new id gets a number between those of its neighbours. When there is none left all numbers are spread anew.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from arcray.core.ids import NodeId

__all__ = ["RANK_BITS", "Ranks"]

RANK_BITS: Final = 34
_END: Final = 1 << RANK_BITS
_STEP: Final = 1 << 16  # distance to a new last id, so that ids that come in order do not halve the rest each time


class Ranks:
    """The numbers, each below ``2**RANK_BITS``."""

    __slots__ = ("_ids", "_ranks")

    def __init__(self) -> None:
        self._ids: list[NodeId] = []
        self._ranks: dict[NodeId, int] = {}

    def __getitem__(self, node_id: NodeId) -> int:
        return self._ranks[node_id]

    def add(self, node_id: NodeId) -> bool:
        """Takes up a new id; returns whether the numbers of the others have changed too."""
        ids, ranks = self._ids, self._ranks
        index = bisect_left(ids, node_id)
        low = ranks[ids[index - 1]] if index else -1
        high = ranks[ids[index]] if index < len(ids) else _END
        ids.insert(index, node_id)
        ranks[node_id] = low + min(_STEP, (high - low) // 2)
        if high - low > 1:
            return False
        spread = _END // (len(ids) + 1)
        self._ranks = {each: number * spread for number, each in enumerate(ids, 1)}
        return True

    def discard(self, node_id: NodeId) -> None:
        """Forgets an id."""
        del self._ids[bisect_left(self._ids, node_id)]
        del self._ranks[node_id]
