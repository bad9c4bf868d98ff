"""A device's end of its attachment: takes orders, gives them to the device, tells the cluster what became of them.

Words about work are told one after the other. A word waits while the scheduler is away, and is told again under the
attachment that stands then. What a device wrote is stored before its end is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias, assert_never

from arcray.core.blobkeys import log_key, result_key
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import (
    ArcrayError,
    Code,
    IllegalTransitionError,
    InvalidArgumentError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import Clock, ControlPlane
from arcray.core.workload import Phase, Program, Result
from arcray.facades.pool.assignments import Assignments, Ended, Files
from arcray.facades.pool.messages import TaskComplete
from arcray.wire.asking import ask
from arcray.wire.blobs import read_blob, size_of_blob

__all__ = ["DeviceWork"]

_log = logging.getLogger(__name__)

_ORDERS: Final = 1_024  # of one device that wait to be handed on
_FRAME_BYTES: Final = 8 << 20  # of code and input that a device is sent at the most
_GRACE_S: Final = 5.0  # beside that of the order, for the device's own word
_RETRY_S: Final = 0.2  # doubles
_RETRY_MAX_S: Final = 5.0
_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})

_NO_RESULT: Final = Result()

_Item: TypeAlias = StartWorkload | StopAttempt | RunInference | Ended


class DeviceWork:
    """Implements ``wire.attachments.AttachedNode`` for one device.

    Args:
        send: gives the device a frame.
        log_bytes: kept of what one piece of work writes.
    """

    def __init__(
        self, plane: ControlPlane, clock: Clock, node_id: NodeId, *, send: Callable[[str], None], log_bytes: int
    ) -> None:
        self.node_id: Final = node_id
        self.epoch = 0
        self._plane = plane
        self._clock = clock
        self._send = send
        self._log_bytes = log_bytes
        self._assignments = Assignments()
        self._items: deque[_Item] = deque()
        self._arrived = asyncio.Event()

    def inventory(self) -> Sequence[Running]:
        """Returns what the device has to do."""
        return self._assignments.inventory()

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders, all or none.

        Raises:
            StaleReportError: they are for an earlier attachment.
            UnavailableError: it is not attached under this epoch yet, or takes nothing now; try again.
        """
        if epoch > self.epoch:
            raise UnavailableError(f"node {self.node_id} is not attached under epoch {epoch} here")
        if epoch < self.epoch:
            raise StaleReportError(f"node {self.node_id} is at epoch {self.epoch}, not {epoch}", field="epoch")
        if len(self._items) + len(orders) > _ORDERS:
            raise UnavailableError(f"node {self.node_id} has {_ORDERS} orders to take")
        self._items += orders
        self._arrived.set()

    def done(self, result: TaskComplete) -> None:
        """Takes the device's word of the end of a task; of one that it was not given, nothing."""
        ended = self._assignments.done(result)
        if ended is None:
            _log.info("word of a device ignored", extra={"node_id": self.node_id, "task": result.task_id})
            return
        self._items.append(ended)
        self._arrived.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                while not self._items:
                    self._arrived.clear()
                    await self._arrived.wait()
                item = self._items.popleft()
                try:
                    await self._act(item, group)
                except Exception:  # noqa: BLE001 - a loop boundary: a fault of ours must not silence a device
                    _log.exception("word of a device lost", extra={"node_id": self.node_id})

    async def _act(self, item: _Item, group: asyncio.TaskGroup) -> None:
        match item:
            case StartWorkload():
                if self._assignments.take(item):
                    await self._start(item)
            case StopAttempt():
                self._stop(item, group)
            case RunInference():
                error = InvalidArgumentError("a device answers no requests", field="payload")
                await self._end(_running(item), Phase.FAILED, str(error), refused=True)
            case Ended():
                await self._ended(item)
            case _:
                assert_never(item)

    async def _start(self, order: StartWorkload) -> None:
        work = _running(order)
        try:
            files = await self._files(order.payload) if isinstance(order.payload, Program) else None
            frame = self._assignments.assign(order, files)
        except ArcrayError as error:
            self._assignments.end(work)
            await self._end(work, Phase.FAILED, str(error), refused=True)
            return
        if not self._assignments.has(order):
            return
        self._send(frame)
        running = ReportPhase(
            node_id=self.node_id,
            epoch=self.epoch,
            workload_id=work.workload_id,
            attempt=work.attempt,
            phase=Phase.RUNNING,
        )
        if not await self._report(running):
            self._send(self._assignments.cancel(work))  # nobody wants it any more

    async def _files(self, program: Program) -> Files:
        code = await self._read(program.blob)
        stdin = await self._read(program.stdin_blob) if program.stdin_blob else None
        return Files(code=code, stdin=stdin)

    async def _read(self, key: str) -> bytes:
        if await size_of_blob(self._plane.blobs, key) > _FRAME_BYTES:
            raise InvalidArgumentError(f"has more than the {_FRAME_BYTES} bytes that a device is sent", field="payload")
        return await read_blob(self._plane.blobs, key)

    def _stop(self, order: StopAttempt, group: asyncio.TaskGroup) -> None:
        frame = self._assignments.stop(order)
        if frame is not None:
            self._send(frame)
            group.create_task(self._give_up(_running(order), order.grace_s + _GRACE_S))
        else:
            group.create_task(self._give_up(_running(order), 0.0, known=False))

    async def _give_up(self, work: Running, grace_s: float, *, known: bool = True) -> None:
        """Ends an attempt for certain, whatever its device says."""
        if grace_s:
            await self._clock.sleep(grace_s)
        if self._assignments.end(work) or not known:
            message = "did not end in time" if known else "was not on its node"
            await self._end(work, Phase.STOPPED, message)

    # -- telling the cluster ------------------------------------------------------------------------------------------

    async def _ended(self, ended: Ended) -> None:
        """Tells of an end by the device's word; a success that cannot be kept is none."""
        phase, message, result = ended.phase, ended.message, Result(exit_code=ended.exit_code)
        try:
            await self._write(ended)
            result = await self._keep(ended)
        except ArcrayError as error:
            phase = Phase.FAILED if phase is Phase.SUCCEEDED else phase
            message = message or f"what it left cannot be kept: {error}"
        await self._end(ended.work, phase, message, refused=ended.refused, result=result)

    async def _end(
        self, work: Running, phase: Phase, message: str, *, refused: bool = False, result: Result = _NO_RESULT
    ) -> None:
        await self._report(
            ReportEnd(
                node_id=self.node_id,
                epoch=self.epoch,
                workload_id=work.workload_id,
                attempt=work.attempt,
                phase=phase,
                message=message,
                result=result,
                refused=refused,
            )
        )

    async def _report(self, report: ReportPhase | ReportEnd) -> bool:
        """Tells the cluster, until it has answered; returns whether it still wants the work."""
        wait_s = _RETRY_S
        while True:
            epoch = self.epoch
            try:
                await ask(self._plane, replace(report, epoch=epoch))
            except ArcrayError as error:
                if error.code in _AGAIN or epoch != self.epoch:  # it attached again meanwhile
                    await self._clock.sleep(wait_s)
                    wait_s = min(_RETRY_MAX_S, wait_s * 2)
                    continue
                _log.info(
                    "report refused",
                    extra={"node_id": self.node_id, "workload_id": report.workload_id, "reason": str(error)},
                )
                return isinstance(error, IllegalTransitionError)
            return True

    async def _write(self, ended: Ended) -> None:
        data = ended.output.encode()
        key = log_key(ended.work.workload_id)

        async def append() -> None:
            room = self._log_bytes - (await self._plane.blobs.size(key) or 0)
            if room > 0:
                await self._plane.blobs.append(key, data[:room])

        if data:
            await self._stored(append)

    async def _keep(self, ended: Ended) -> Result:
        """Stores the files of a result."""
        work = ended.work
        files = {result_key(work.workload_id, path, work.attempt): data for path, data in ended.files.items()}
        for key, data in files.items():
            await self._stored(partial(self._plane.blobs.put, key, data))
        return Result(exit_code=ended.exit_code, blobs=tuple(sorted(files)))

    async def _stored(self, store: Callable[[], Awaitable[object]]) -> None:
        wait_s = _RETRY_S
        while True:
            try:
                await store()
            except ArcrayError as error:
                if error.code not in _AGAIN:
                    raise
                await self._clock.sleep(wait_s)
                wait_s = min(_RETRY_MAX_S, wait_s * 2)
            else:
                return


def _running(order: Order) -> Running:
    return Running(workload_id=order.workload_id, attempt=order.attempt)
