"""Tasks that this machine has taken from a HiveMind pool, until their end was told. No I/O.

A task that comes again after its end is another one, under the same id or under one that names a later attempt; its
number here is higher than any before it, also than those of an earlier life of this machine; so numbers begin with the
time, of which a second has more than it has tasks. One of an earlier and a later attempt is here at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from arcray.core.errors import ConflictError
from arcray.core.ids import WorkloadId
from arcray.core.ports import Clock
from arcray.facades.hivemind.orders import attempt_of, workload_of
from arcray.facades.hivemind.own_words import Words

__all__ = ["LiveTask", "LiveTasks"]

_PER_S: Final = 1_000


@dataclass(slots=True, kw_only=True)
class LiveTask:
    """One task.

    Args:
        task_id: as the pool calls this attempt.
        own_id: as the pool calls the task, whichever the attempt.
        attempt: our number of it.
        words: said with every word about it.
        gpus: indices of those that it may use.
        sent_bytes: of its output, that the pool has.
        deaf: the pool takes no more of its output.
        silent: its end is told to nobody: the pool has asked for it, or has given the task up.
        disowned: how often in a row the pool has said that it does not know this task here.
        ended: its end was told, or needs no telling.
    """

    task_id: str
    own_id: str
    workload_id: WorkloadId
    attempt: int
    words: Words = field(default_factory=dict)
    gpus: frozenset[int] = frozenset()
    sent_bytes: int = 0
    deaf: bool = False
    silent: bool = False
    disowned: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LiveTasks:
    """Tasks by what they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[WorkloadId, LiveTask] = {}
        self._last_attempt = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(tuple(self._tasks.values()))

    def add(self, task_id: str) -> LiveTask:
        """Returns a task that has just come.

        Raises:
            InvalidArgumentError: no task can be called that.
            ConflictError: it is here already, or another attempt of it is.
        """
        workload_id, (own_id, _) = workload_of(task_id), attempt_of(task_id)
        here = self._tasks.get(workload_id)
        if here is not None:
            raise ConflictError(f"runs here already, as {here.task_id}", field="task_id")
        self._last_attempt = max(self._last_attempt + 1, int(self._clock.now().timestamp() * _PER_S))
        task = LiveTask(task_id=task_id, own_id=own_id, workload_id=workload_id, attempt=self._last_attempt)
        self._tasks[workload_id] = task
        return task

    def named(self, task_id: str) -> LiveTask | None:
        """Returns a task by the pool's id."""
        return next((task for task in self if task.task_id == task_id), None)

    def earlier_than(self, task_id: str) -> LiveTask | None:
        """Returns the earlier attempt that is here of what the pool calls so.

        Raises:
            InvalidArgumentError: no task can be called that.
        """
        here = self._tasks.get(workload_of(task_id))
        return here if here is not None and attempt_of(here.task_id) < attempt_of(task_id) else None

    def of(self, workload_id: WorkloadId, attempt: int) -> LiveTask | None:
        """Returns a task by ours."""
        task = self._tasks.get(workload_id)
        return task if task is not None and task.attempt == attempt else None

    def remove(self, task: LiveTask) -> None:
        """Forgets a task whose end was told, and wakes who waits for it."""
        if self._tasks.get(task.workload_id) is task:
            del self._tasks[task.workload_id]
        task.ended.set()
