"""One machine's side of the Resource Pool, over all of its connections. No I/O: frames and reports in, frames out.

What lives here: what is said, when, and what is done about the server's words. What does not: sockets (``link``), disks
and the node (``device_pool``).

- **A connection that ends takes its tasks along.** The server gives them up with the device, so they end here, without
  a word, before the next connection begins. The same goes for a machine that leaves.
- **A machine that was taken for gone** hears so as everybody does. What it runs then was given up, and ends; its next
  sign of life brings it back. That it ended is said all the same, should the word have been about an earlier
  connection.
- **A task is begun once**, whatever comes twice. What comes between a registration and its answer is of an earlier one.
- **Bounds.** So many tasks run, so many ends wait to be said; a server that asks faster than it listens is read more
  slowly (``congested``).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from arcray.agents.device_tasks import DeviceTasks, HeldTask, order_of, ready_of
from arcray.agents.device_words import (
    Assigned,
    Cancelled,
    Left,
    Listed,
    Misread,
    complete_frame,
    heartbeat_frame,
    read,
    register_frame,
)
from arcray.core.commands import ReportEnd, Running
from arcray.core.errors import ArcrayError, ConflictError, InvalidArgumentError, ResourceExhaustedError
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.ports import Clock, Ids
from arcray.core.workload import Phase
from arcray.facades.pool.codec import update_frame
from arcray.facades.pool.messages import CAN_RUN, CAN_RUN_IMAGES, Resources, TaskComplete
from arcray.facades.pool.nodes import resources_of
from arcray.facades.pool.programs import Programs
from arcray.pool_settings import DeviceSettings

__all__ = ["Action", "Begin", "DeviceSession"]

_log = logging.getLogger(__name__)

_BATCH: Final = 64
_WAITING: Final = 1_000  # ends that wait to be said, beyond which nothing is read
_SEEN: Final = 4_096
_CANCEL_GRACE_S: Final = 5.0
_LOST_GRACE_S: Final = 2.0
_TAKEN_FOR_GONE: Final = "its device was silent and taken for gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Begin a task.

    Args:
        blobs: what its order names, to be stored before.
    """

    order: StartWorkload
    blobs: Mapping[str, bytes]


Action: TypeAlias = Begin | StopAttempt
"""What a frame asks of the machine."""


class DeviceSession:
    """What one machine says to its server.

    Args:
        device_id, name, platform: of this machine.
        max_tasks: that run at a time.
        programs: that it has by name, for servers that send none.
    """

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        settings: DeviceSettings,
        *,
        device_id: str,
        name: str,
        platform: str,
        max_tasks: int,
        programs: Programs,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._device_id = device_id
        self._name = name
        self._platform = platform
        self._programs = programs
        self._tasks = DeviceTasks(clock, ids, most=max_tasks)
        self._registration: NodeRegistration | None = None
        self._telemetry: Telemetry | None = None
        self._frames: deque[str] = deque()
        self._seen: deque[str] = deque(maxlen=_SEEN)  # tasks of this connection
        self._registered = False
        self._unanswered = False  # the newest registration
        self._is_another = False  # than the one that has registered
        self._told: Resources | None = None
        self._next_beat_s = 0.0
        self._next_update_s = 0.0
        self._leaving = False

    # -- what the machine says ----------------------------------------------------------------------------------------

    def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> tuple[Running, ...]:
        """Takes what this machine is; returns what an earlier agent left running, which the server has given up."""
        before, self._registration = self._registration, registration
        if before is None:
            return tuple(inventory)
        self._is_another = self._is_another or before.capabilities != registration.capabilities
        return ()

    @property
    def registration(self) -> NodeRegistration:
        """What this machine is."""
        assert self._registration is not None, "attached"
        return self._registration

    def reading(self, telemetry: Telemetry | None) -> None:
        """Takes how this machine is."""
        self._telemetry = telemetry or self._telemetry

    def task(self, report: ReportEnd) -> HeldTask | None:
        """Returns whose end is reported; None where it is no task's."""
        return self._tasks.of(report.workload_id, report.attempt)

    def ended(self, task: HeldTask, report: ReportEnd, output: str, files: Mapping[str, bytes]) -> None:
        """Takes that a task has ended, and says so.

        Args:
            output: what it wrote.
            files: that it left as its result.
        """
        self._tasks.remove(task)
        if task.silent:
            return
        succeeded = report.phase is Phase.SUCCEEDED
        self._say_end(
            TaskComplete(
                device_id=self._device_id,
                task_id=task.task_id,
                success=succeeded,
                output=output,
                error="" if succeeded else task.why or report.message or f"it {report.phase}",
                files=files,
                exit_code=report.result.exit_code,
                refused=report.refused,
            )
        )

    def undelivered(self, order: StartWorkload, error: ArcrayError) -> None:
        """Takes that the node would not have an order."""
        task = self._tasks.of(order.workload_id, order.attempt)
        if task is not None:
            self._tasks.remove(task)
            if not task.silent:
                self._refuse(task.task_id, str(error))

    def leave(self) -> list[StopAttempt]:
        """Takes no more tasks; returns the orders that end what runs. The server has it go elsewhere."""
        self._leaving = True
        return self._given_up(_CANCEL_GRACE_S)

    def abandoned(self) -> list[StopAttempt]:
        """Returns the orders that end what an ended connection has left."""
        return [] if self._registered else self._given_up(_LOST_GRACE_S)

    @property
    def running(self) -> int:
        """How many tasks have not ended here."""
        return len(self._tasks)

    @property
    def left(self) -> bool:
        """Whether this machine was to leave, and nothing runs."""
        return self._leaving and not self._tasks

    # -- a connection -------------------------------------------------------------------------------------------------

    def opened(self) -> str:
        """Returns the first frame of a connection."""
        self._is_another, self._unanswered = False, True
        can = self.registration.capabilities
        capabilities = {CAN_RUN} if can.programs or can.containers else set()
        if can.containers:
            capabilities.add(CAN_RUN_IMAGES)
        return register_frame(
            self._device_id,
            name=self._name,
            platform=self._platform,
            capabilities=capabilities,
            max_tasks=self._tasks.most,
        )

    def closed(self) -> None:
        """Takes that the connection is gone, and its tasks with it."""
        self._registered = False
        self._frames.clear()
        for task in self._tasks:
            task.silent = True

    @property
    def registered(self) -> bool:
        """Whether the server has taken this machine over this connection."""
        return self._registered

    @property
    def congested(self) -> bool:
        """Whether so much waits to be said that nothing more should be read."""
        return len(self._frames) >= _WAITING

    def due_s(self) -> float | None:
        """Returns in how many seconds there is something to send; None before the server has taken this machine."""
        if not self._registered:
            return None
        if self._frames or self._registers_again():
            return 0.0
        due_s = self._next_beat_s
        if not self._unanswered and self._resources() != self._told:
            due_s = min(due_s, self._next_update_s)
        return max(0.0, due_s - self._clock.monotonic())

    def take(self) -> list[str]:
        """Returns the next frames to send, in order; [] where nothing is due."""
        if not self._registered:
            return []
        now_s = self._clock.monotonic()
        frames = [self._frames.popleft() for _ in range(min(len(self._frames), _BATCH))]
        if self._registers_again():
            frames.append(self.opened())
        resources = self._resources()
        if not self._unanswered and resources != self._told and now_s >= self._next_update_s:
            frames.append(update_frame(self._device_id, resources))
            self._told = resources
            self._next_update_s = now_s + self._settings.update_s
            self._next_beat_s = now_s + self._settings.heartbeat_s
        elif now_s >= self._next_beat_s:
            frames.append(heartbeat_frame(self._device_id))
            self._next_beat_s = now_s + self._settings.heartbeat_s
        return frames

    def _registers_again(self) -> bool:
        """Returns whether to register anew. That gives up what was handed out, and so waits until nothing is."""
        return self._is_another and not self._unanswered and not self._tasks and not self._frames

    def _resources(self) -> Resources:
        capacity = self.registration.capacity
        free_milli, free_bytes = self._tasks.free(capacity)
        return resources_of(self.registration, self._telemetry, free_milli=free_milli, free_bytes=free_bytes)

    # -- what the server says -----------------------------------------------------------------------------------------

    def received(self, frame: str | bytes) -> list[Action]:
        """Takes a frame; returns what it asks of the machine. What cannot be read is logged, and changes nothing."""
        try:
            message = read(frame)
        except InvalidArgumentError as error:
            _log.warning("a word of the server not understood", extra={"reason": str(error)})
            return []
        match message:
            case Listed():
                self._on_listed()
            case Assigned() | Misread() if self._unanswered or self._leaving:
                _log.info("task passed over", extra={"task_id": message.task_id})
            case Misread():
                self._refuse(message.task_id, message.reason, begun=True)
            case Assigned():
                return self._on_assigned(message)
            case Cancelled():
                return self._on_cancelled(message.task_id)
            case Left():
                return self._on_left(message.device_id)
            case None:
                pass
        return []

    def _on_listed(self) -> None:
        if self._unanswered:
            self._registered, self._unanswered = True, False
            self._told = None
            self._seen.clear()
            self._next_beat_s = self._next_update_s = self._clock.monotonic()

    def _on_assigned(self, assigned: Assigned) -> list[Action]:
        task_id = assigned.task_id
        if task_id in self._seen:
            _log.info("task comes twice", extra={"task_id": task_id})
            return []
        self._seen.append(task_id)
        try:
            task = self._tasks.add(assigned, self.registration.capacity)
        except (ConflictError, ResourceExhaustedError) as error:
            self._refuse(task_id, str(error))
            return []
        try:
            ready = ready_of(assigned, task.workload_id, self._programs)
        except ArcrayError as error:
            self._tasks.remove(task)
            self._refuse(task_id, str(error), begun=True)
            return []
        return [Begin(order=order_of(assigned, task, ready), blobs=ready.blobs)]

    def _on_cancelled(self, task_id: str) -> list[Action]:
        task = self._tasks.named(task_id)
        if task is None:
            _log.info("no such task to end", extra={"task_id": task_id})
            return []
        return [self._stopped(task, _CANCEL_GRACE_S)]

    def _on_left(self, device_id: str) -> list[Action]:
        if device_id != self._device_id:
            return []
        _log.warning("taken for gone", extra={"tasks": len(self._tasks)})
        for task in self._tasks:
            task.why = _TAKEN_FOR_GONE
        return [self._stopped(task, _LOST_GRACE_S) for task in self._tasks]

    def _stopped(self, task: HeldTask, grace_s: float) -> StopAttempt:
        task.ending = True
        return StopAttempt(workload_id=task.workload_id, attempt=task.attempt, grace_s=grace_s)

    def _given_up(self, grace_s: float) -> list[StopAttempt]:
        for task in self._tasks:
            task.silent = True
        return [self._stopped(task, grace_s) for task in self._tasks]

    def _refuse(self, task_id: str, reason: str, *, begun: bool = False) -> None:
        """Says that a task was not begun.

        Args:
            begun: it would fail as well elsewhere, and so counts as begun.
        """
        _log.info("task refused", extra={"task_id": task_id, "reason": reason})
        done = TaskComplete(device_id=self._device_id, task_id=task_id, success=False, error=reason, refused=not begun)
        self._say_end(done)

    def _say_end(self, done: TaskComplete) -> None:
        if self._registered:
            self._frames.append(complete_frame(done))
