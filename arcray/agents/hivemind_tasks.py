"""Tasks that this machine has taken from a HiveMind pool, until their end was told. No I/O.

The wire has no attempts: a task that comes again after its end is another one, and its number here is higher than any
before it, also than those of an earlier life of this machine; so numbers begin with the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from arcray.core.errors import ConflictError
from arcray.core.ids import WorkloadId
from arcray.core.ports import Clock
from arcray.facades.hivemind.orders import workload_of

__all__ = ["LiveTask", "LiveTasks"]


@dataclass(slots=True, kw_only=True)
class LiveTask:
    """One task.

    Args:
        sent_bytes: of its output, that the pool has.
        deaf: the pool takes no more of its output.
        silent: its end is told to nobody: the pool has asked for it, or has given the task up.
        disowned: how often in a row the pool has said that it does not know this task here.
        ended: its end was told, or needs no telling.
    """

    task_id: str
    workload_id: WorkloadId
    attempt: int
    sent_bytes: int = 0
    deaf: bool = False
    silent: bool = False
    disowned: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class LiveTasks:
    """Tasks by id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, LiveTask] = {}
        self._last_attempt = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(tuple(self._tasks.values()))

    def add(self, task_id: str) -> LiveTask:
        """Returns a task that has just come.

        Raises:
            InvalidArgumentError: no task can be called that.
            ConflictError: it is here already.
        """
        workload_id = workload_of(task_id)
        if task_id in self._tasks:
            raise ConflictError("runs here already", field="task_id")
        self._last_attempt = max(self._last_attempt + 1, int(self._clock.now().timestamp()))
        task = LiveTask(task_id=task_id, workload_id=workload_id, attempt=self._last_attempt)
        self._tasks[task_id] = task
        return task

    def named(self, task_id: str) -> LiveTask | None:
        """Returns a task by the pool's id."""
        return self._tasks.get(task_id)

    def of(self, workload_id: WorkloadId, attempt: int) -> LiveTask | None:
        """Returns a task by ours."""
        return next((task for task in self if (task.workload_id, task.attempt) == (workload_id, attempt)), None)

    def remove(self, task: LiveTask) -> None:
        """Forgets a task whose end was told, and wakes who waits for it."""
        self._tasks.pop(task.task_id, None)
        task.ended.set()
