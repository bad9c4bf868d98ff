"""Tasks that this machine was given as a device, until their end was said; and how one becomes a node's order. No I/O.

A server has given up what it had handed out before a connection broke, so a task may come again under its id: it is
another one here. Its number is higher than any before it, also than those of an earlier life of this machine, whose
containers may still be here; so numbers begin with the time, of which a second has more than it has tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from arcray.agents.device_words import Assigned, Code
from arcray.core.blobkeys import program_key, stdin_key
from arcray.core.errors import ConflictError, ResourceExhaustedError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.ports import Clock, Ids
from arcray.core.quantity import MIB
from arcray.core.resources import Allocation, Capacity, Demand, GpuShare
from arcray.core.workload import Container, Program
from arcray.facades.pool.messages import Requirements
from arcray.facades.pool.nodes import PERCENT_MILLI
from arcray.facades.pool.programs import Programs, Ready
from arcray.facades.pool.tasks import demand_of

__all__ = ["DeviceTasks", "HeldTask", "order_of", "ready_of"]

_PER_S: Final = 1_000
_WORK: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.[0-9]{1,9})?")


@dataclass(slots=True, kw_only=True)
class HeldTask:
    """One task.

    Args:
        task_id: as the server calls it.
        workload_id, attempt: as this machine does.
        allocation: the slice of this machine that it uses.
        ending: it was asked to end, so that what it holds may be another's already.
        silent: its end is said to nobody: the server has given it up.
        why: it was asked to end, where the server has not done so.
    """

    task_id: str
    workload_id: WorkloadId
    attempt: int
    demand: Demand
    allocation: Allocation
    ending: bool = False
    silent: bool = False
    why: str = ""


class DeviceTasks:
    """Tasks by what they are.

    Args:
        most: at a time.
    """

    def __init__(self, clock: Clock, ids: Ids, *, most: int) -> None:
        self.most: Final = most
        self._clock = clock
        self._ids = ids
        self._tasks: dict[WorkloadId, HeldTask] = {}
        self._last_attempt = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[HeldTask]:
        return iter(tuple(self._tasks.values()))

    def add(self, assigned: Assigned, capacity: Capacity) -> HeldTask:
        """Returns a task that has just come.

        Raises:
            ConflictError: it is here already.
            ResourceExhaustedError: there is no room for it; names what is short.
        """
        if self.named(assigned.task_id) is not None:
            raise ConflictError("runs here already", field="taskId")
        demand, allocation = self._room_for(assigned.requirements, capacity)
        self._last_attempt = max(self._last_attempt + 1, int(self._clock.now().timestamp() * _PER_S))
        known = _WORK.fullmatch(assigned.task_id)  # arcray's own are known to people by their ids
        workload_id = WorkloadId(known[1] if known and known[1] not in self._tasks else self._ids.new())
        task = HeldTask(
            task_id=assigned.task_id,
            workload_id=workload_id,
            attempt=self._last_attempt,
            demand=demand,
            allocation=allocation,
        )
        self._tasks[workload_id] = task
        return task

    def named(self, task_id: str) -> HeldTask | None:
        """Returns a task that the server still wants, by its id."""
        return next((task for task in self if task.task_id == task_id and not task.silent), None)

    def of(self, workload_id: WorkloadId, attempt: int) -> HeldTask | None:
        """Returns a task by this machine's."""
        task = self._tasks.get(workload_id)
        return task if task is not None and task.attempt == attempt else None

    def remove(self, task: HeldTask) -> None:
        """Forgets a task that has ended."""
        if self._tasks.get(task.workload_id) is task:
            del self._tasks[task.workload_id]

    def free(self, capacity: Capacity) -> tuple[int, int]:
        """Returns what no task holds: thousandths of cores, and bytes of memory."""
        held = [task.allocation for task in self if not task.ending]
        return (
            capacity.cpu_milli - sum(each.cpu_milli for each in held),
            capacity.memory_bytes - sum(each.memory_bytes for each in held),
        )

    def _room_for(self, wanted: Requirements, capacity: Capacity) -> tuple[Demand, Allocation]:
        holding = [task for task in self if not task.ending]
        if len(holding) >= self.most:
            raise ResourceExhaustedError(f"this device runs {self.most} tasks, as many as it may")
        demand = demand_of(wanted)
        cpu_milli = demand.cpu_milli if wanted.cpu else 0  # who asks for none is bound by none
        free_milli, free_bytes = self.free(capacity)
        if cpu_milli > free_milli:
            raise ResourceExhaustedError(f"{max(0, free_milli) // PERCENT_MILLI} are free here", field="cpu")
        if demand.memory_bytes > free_bytes:
            raise ResourceExhaustedError(f"{max(0, free_bytes) // MIB} MB are free here", field="memory")
        shares: tuple[GpuShare, ...] = ()
        if demand.gpus:
            taken = {share.index for task in holding for share in task.allocation.gpus}
            gpu = next((gpu for gpu in capacity.gpus if gpu.index not in taken), None)
            if gpu is None:
                raise ResourceExhaustedError("no GPU is free here", field="gpu")
            shares = (GpuShare(index=gpu.index, memory_bytes=gpu.memory_bytes, whole=True),)
        asked = Demand(
            cpu_milli=cpu_milli, memory_bytes=demand.memory_bytes, disk_bytes=demand.disk_bytes, gpus=len(shares)
        )
        return asked, Allocation(cpu_milli=cpu_milli, memory_bytes=demand.memory_bytes, gpus=shares)


def ready_of(assigned: Assigned, workload_id: WorkloadId, programs: Programs) -> Ready:
    """Returns what a task runs.

    Args:
        programs: that this machine has by name.

    Raises:
        NotFoundError: it has none of that name.
        InvalidArgumentError: the input is larger than an argument may be.
    """
    match assigned.work:
        case Container() as container:
            return Ready(payload=container, blobs={})
        case Code() as sent:
            code, stdin = program_key(workload_id, archive=sent.archive), stdin_key(workload_id)
            payload = Program(
                blob=code,
                archive=sent.archive,
                entry_point=sent.entry_point,
                args=sent.args,
                env=sent.env,
                stdin_blob=stdin if sent.stdin else "",
            )
            return Ready(payload=payload, blobs={code: sent.code} | ({stdin: sent.stdin} if sent.stdin else {}))
        case None:
            return programs.ready(assigned.command, assigned.given, workload_id)


def order_of(assigned: Assigned, task: HeldTask, ready: Ready) -> StartWorkload:
    """Returns the order to start a task."""
    return StartWorkload(
        workload_id=task.workload_id,
        attempt=task.attempt,
        payload=ready.payload,
        demand=task.demand,
        allocation=task.allocation,
        owner=assigned.owner or task.workload_id,  # nobody says whose it is, so none sees another's
        name=assigned.command,
    )
