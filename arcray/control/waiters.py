"""Waiters: replies that come with a workload's end. Bounded and timed, at constant cost per waiter.

All waiters have the same term and a dictionary keeps the order of insertion, so the oldest stands first and no timer
per waiter is needed.
"""

from __future__ import annotations

from arcray.control.batch import Reply, answer
from arcray.core.errors import ArcrayError, BusyError, DeadlineExceededError
from arcray.core.ids import WorkloadId

__all__ = ["Waiters"]


class Waiters:
    """Replies by workload.

    Args:
        limit: waiters at the most.
        term_s: longest wait.
    """

    def __init__(self, *, limit: int, term_s: float) -> None:
        self._limit = limit
        self._term_s = term_s
        self._waiting: dict[WorkloadId, tuple[float, list[Reply]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, workload_id: WorkloadId, reply: Reply, now_s: float) -> None:
        """Holds a reply back; when too many are held already it is refused at once."""
        if self._count >= self._limit:
            answer(reply, BusyError(f"{self._limit} callers are waiting already"))
            return
        # A second caller for the same workload shares the term of the first.
        self._waiting.setdefault(workload_id, (now_s + self._term_s, []))[1].append(reply)
        self._count += 1

    def take(self, workload_id: WorkloadId) -> list[Reply]:
        """Returns, and forgets, who waits for this workload."""
        entry = self._waiting.pop(workload_id, None)
        if entry is None:
            return []
        self._count -= len(entry[1])
        return entry[1]

    def expire(self, now_s: float) -> None:
        """Answers those that have waited their term."""
        late: list[WorkloadId] = []
        for workload_id, (due_s, _) in self._waiting.items():
            if due_s > now_s:
                break
            late.append(workload_id)
        for workload_id in late:
            error = DeadlineExceededError(f"workload {workload_id} did not end in {self._term_s:g} s")
            self._answer(workload_id, error)

    def fail(self, error: ArcrayError) -> None:
        """Answers everyone with an error."""
        for workload_id in list(self._waiting):
            self._answer(workload_id, error)

    def _answer(self, workload_id: WorkloadId, error: ArcrayError) -> None:
        for reply in self.take(workload_id):
            answer(reply, error)
