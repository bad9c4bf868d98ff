"""Turns: who may search in a round that has not time for everybody, so that each gets its turn."""

from __future__ import annotations

from arcray.core.ids import WorkloadId

__all__ = ["SearchTurns"]


class SearchTurns:
    """Bounds the searches of one round, which ends when they are used up; the next one goes on from there.

    Nobody searches twice in the same situation, unless the search was not finished.

    Attributes:
        used_up: no search is left in this round.
        situation: in which its searches are made.
    """

    def __init__(self) -> None:
        self.situation = 0
        self._searched: dict[WorkloadId, int] = {}  # the situation at its last search, of those who asked last pass
        self._asked: dict[WorkloadId, int] = {}
        self._left = 0

    @property
    def used_up(self) -> bool:
        """Whether no search is left in this round."""
        return not self._left

    def begin_pass(self) -> None:
        """Begins a pass over the queue: who does not ask in it is forgotten."""
        self._searched, self._asked = self._asked, {}

    def begin(self, limit: int, situation: int) -> None:
        """Begins a round.

        Args:
            limit: searches in it.
            situation: a number that is another one whenever a search may end differently.
        """
        self._left, self.situation = limit, situation

    def take(self, workload_id: WorkloadId) -> bool:
        """Returns whether the workload may search now."""
        last = self._asked.get(workload_id, self._searched.get(workload_id, -1))
        self._asked[workload_id] = last
        if last == self.situation or self.used_up:
            return False
        self._left -= 1
        self._asked[workload_id] = self.situation
        return True

    def not_finished(self, workload_id: WorkloadId) -> None:
        """Has a workload search once more in this situation: its search has not looked everywhere."""
        self._asked[workload_id] = -1
