"""Turns: who may search in a round that has not time for everybody, so that each gets its turn."""

from __future__ import annotations

from arcray.core.ids import WorkloadId

__all__ = ["SearchTurns"]


class SearchTurns:
    """Bounds the searches of one round, by the order in which they are asked for.

    Those that find the round used up are first in the next one, and are not passed by others before that. Nobody
    searches twice in the same situation.
    """

    def __init__(self) -> None:
        self._searched: dict[WorkloadId, int] = {}  # the situation at its last search, of those who asked last round
        self._asked: dict[WorkloadId, int] = {}
        self._owed: set[WorkloadId] = set()
        self._owed_next: set[WorkloadId] = set()
        self._situation = 0
        self._left = 0
        self._passed = False

    def begin(self, limit: int, situation: int) -> None:
        """Begins a round.

        Args:
            limit: searches in it.
            situation: a number that is another one whenever a search may end differently.
        """
        self._left, self._situation = limit, situation
        self._asked, self._owed_next, self._passed = {}, set(), False

    def take(self, workload_id: WorkloadId) -> bool:
        """Returns whether the workload may search now."""
        last = self._searched.get(workload_id, -1)
        self._asked[workload_id] = last
        if last == self._situation:
            return False
        if self._owed and workload_id not in self._owed:
            self._passed = True
            return False
        if not self._left:
            self._owed_next.add(workload_id)
            return False
        self._left -= 1
        self._asked[workload_id] = self._situation
        return True

    def waits(self, workload_id: WorkloadId) -> bool:
        """Returns whether the workload asked in this round and has its turn in a later one."""
        return self._asked.get(workload_id, self._situation) != self._situation

    def end(self) -> bool:
        """Ends the round; returns whether another one is needed for those who had no turn."""
        self._searched, self._owed = self._asked, self._owed_next
        return self._passed or bool(self._owed)
