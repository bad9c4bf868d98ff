"""A HiveMind pool as this machine tells it things: implements ``Pool``.

What lives here: registration, heartbeats, readings, output as it is written, results and ends, in the document's words.
What does not: how a call is made (``hivemind_caller``) and how tasks come (``hivemind_worker``).

An end is told when all before it was: what the task wrote, then its result, then that it is over. Where the pool is
away the end is told again later, and begins where it was. The pool has no word for an attempt that it has given up; it
says so when it is told how such a task does, and then the task is ended here without a word.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from google.protobuf.message import Message

from arcray.agents.hivemind_caller import Told
from arcray.agents.hivemind_tasks import LiveTask, LiveTasks
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key, program_key, result_path, result_prefix
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import (
    ArcrayError,
    PermissionDeniedError,
    StaleReportError,
    UnavailableError,
    UnsupportedError,
)
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.ports import Clock
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.workload import Phase
from arcray.facades.hivemind.containers import OFFERS_CONTAINERS
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import INT32
from arcray.facades.hivemind.outputs import result_data
from arcray.facades.hivemind.own_words import Words, saying_gpus, saying_instance
from arcray.facades.hivemind.refusals import ErrorCode
from arcray.facades.hivemind.tasks import POINTS_PER_CORE
from arcray.facades.hivemind.uploads import TASK_BYTES

__all__ = ["HivemindPool", "Tell"]

Tell: TypeAlias = Callable[[str, Message, Words], Awaitable[Told]]
"""Calls ``Service.Method``; see ``PoolCaller.tell``."""

_log = logging.getLogger(__name__)

_BEAT_S: Final = 5.0
_OUTPUT_S: Final = 0.5
_CHUNK_BYTES: Final = 256 << 10
_DISOWNED: Final = 2  # answers in a row that a task is not here
_OFFLINE: Final = "Offline"
_PERCENT: Final = 100
_UNZIPPED_BYTES: Final = 512 << 20  # they are in memory while they are zipped


class HivemindPool:
    """Tells a pool.

    Args:
        node_id: this machine's name there.
        host, port: where it is dialled.
        tasks: those that were taken from it.
        blobs: of this machine.
        disowned: told of a task that the pool has given up.
    """

    def __init__(
        self,
        tell: Tell,
        clock: Clock,
        tasks: LiveTasks,
        blobs: FsspecBlobs,
        *,
        node_id: str,
        host: str,
        port: int,
        location: str = "",
        disowned: Callable[[LiveTask], None],
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._tasks = tasks
        self._blobs = blobs
        self._node_id = node_id
        self._host = host
        self._port = port
        self._location = location
        self._disowned = disowned
        self._instance = secrets.token_hex(8)
        self._attached = False
        self._forgotten = False
        self._reading: Telemetry | None = None
        self._registration: NodeRegistration | None = None
        self._sending = asyncio.Lock()

    async def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> Sequence[Running]:
        """Registers. What an earlier life of this machine had is given up first: the pool has it go elsewhere."""
        unwanted = () if self._attached else tuple(inventory)
        if not self._attached:
            await self._status(_OFFLINE)
        request = _registration(
            registration, node_id=self._node_id, host=self._host, port=self._port, location=self._location
        )
        words = {**saying_gpus(registration.capacity.gpus), **saying_instance(self._instance)}
        told = await self._tell("NodeManagerService.RegisterWorkerNode", request, words)
        if not told.success:
            raise PermissionDeniedError(f"the pool refuses this machine: {told.message}")
        self._registration = registration
        self._attached, self._forgotten = True, False
        return unwanted

    async def phase(self, report: ReportPhase) -> None:
        """Tells nothing: that a task was taken is what its sender has heard."""
        _ = report

    async def end(self, report: ReportEnd) -> None:
        """Tells how a task ended, after all that it wrote and returned.

        Raises:
            UnavailableError: the pool has not heard it; also where it does not let this machine's user in now.
        """
        task = self._tasks.of(report.workload_id, report.attempt)
        if task is None:
            return
        try:
            await self._send_output(task, last=True)
            if not task.silent:
                await self._tell_end(task, report)
        except PermissionDeniedError as error:
            raise UnavailableError(error.message) from error
        self._tasks.remove(task)
        await self._clean(task)

    async def reading(self, telemetry: Telemetry | None) -> None:
        """Keeps a reading for the next heartbeat.

        Raises:
            StaleReportError: the pool has forgotten this machine, which has to register again.
        """
        self._reading = telemetry or self._reading
        if self._forgotten:
            raise StaleReportError("the pool does not know this machine any more", field="epoch")

    async def leave(self) -> None:
        """Says good-bye, once, if anybody hears it."""
        try:
            await self._status(_OFFLINE)
        except ArcrayError as error:
            _log.info("left without a word", extra={"reason": str(error)})

    async def run(self) -> None:
        """Tells the pool that this machine lives, how it is, and what its tasks write, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat_forever())
            group.create_task(self._send_forever())

    # -- heartbeats ---------------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        while True:
            if self._attached and not self._forgotten:
                try:
                    await self._beat()
                except ArcrayError as error:
                    _log.warning("heartbeat not heard", extra={"reason": str(error)})
            await self._clock.sleep(_BEAT_S)

    async def _beat(self) -> None:
        told = await self._status(f"Running {len(self._tasks)} tasks" if len(self._tasks) else "Idle")
        if not told.success:
            _log.warning("the pool has forgotten this machine", extra={"reason": told.message})
            self._forgotten = True
            return
        for task in self._tasks:
            await self._tell_reading(task)

    async def _tell_reading(self, task: LiveTask) -> None:
        request = _reading(self._reading, self._registration)
        request.node_id, request.task_id = self._node_id, task.task_id
        told = await self._tell_about(task, "WorkerNodeService.ReportRunningStatus", request)
        task.disowned = task.disowned + 1 if told.code is ErrorCode.TASK_NOT_FOUND else 0
        if task.disowned >= _DISOWNED and not task.silent:
            _log.warning("task ended: the pool has given it up", extra={"task_id": task.task_id})
            task.silent = True
            self._disowned(task)

    async def _status(self, status: str) -> Told:
        request = pool.ReportStatusRequest(node_id=self._node_id, status=status)
        return await self._tell("NodeManagerService.ReportStatus", request, {})

    # -- what tasks write ---------------------------------------------------------------------------------------------

    async def _send_forever(self) -> None:
        while True:
            for task in self._tasks:
                try:
                    await self._send_output(task)
                except ArcrayError as error:
                    _log.debug("output waits", extra={"task_id": task.task_id, "reason": str(error)})
            await self._clock.sleep(_OUTPUT_S)

    async def _send_output(self, task: LiveTask, *, last: bool = False) -> None:
        """Sends what a task has written and the pool does not have: whole lines, and the rest once it is the last."""
        key = log_key(task.workload_id)
        async with self._sending:
            size = await self._blobs.size(key) or 0
            task.sent_bytes = min(task.sent_bytes, size)  # the oldest lines of a long log go
            while not task.deaf and size > task.sent_bytes:
                data = await self._blobs.get(key, task.sent_bytes, task.sent_bytes + _CHUNK_BYTES)
                whole = data[: data.rfind(b"\n") + 1]
                if not whole and not last and len(data) < _CHUNK_BYTES:
                    return
                data = whole or data
                text = data.decode(errors="replace").replace("\0", "\ufffd")
                request = pool.StoreOutputRequest(task_id=task.task_id, output=text)
                told = await self._tell_about(task, "MasterNodeService.StoreOutput", request)
                if not told.success:
                    _log.info("output not taken", extra={"task_id": task.task_id, "reason": told.message})
                task.deaf = not told.success
                task.sent_bytes += len(data)

    # -- how they end -------------------------------------------------------------------------------------------------

    async def _tell_end(self, task: LiveTask, report: ReportEnd) -> None:
        succeeded, reason = report.phase is Phase.SUCCEEDED, report.message
        if succeeded:
            result, reason = await self._result(report)
            succeeded = result is not None
            if result is not None:
                returned = pool.ReturnTaskResultRequest(task_id=task.task_id, result_data=result)
                await self._say("MasterNodeService.ReturnTaskResult", returned, task)
        if reason:
            logs = pool.StoreLogsRequest(node_id=self._node_id, task_id=task.task_id, logs=reason)
            await self._say("MasterNodeService.StoreLogs", logs, task)
        ended = pool.TaskCompletedRequest(task_id=task.task_id, node_id=self._node_id, success=succeeded)
        await self._say("MasterNodeService.TaskCompleted", ended, task)

    async def _result(self, report: ReportEnd) -> tuple[bytes | None, str]:
        """Returns a zip of what a task left; None, and why, where there is no returning it."""
        sizes = [await self._blobs.size(key) or 0 for key in report.result.blobs]
        if sum(sizes) <= _UNZIPPED_BYTES:
            files = {result_path(key): await self._blobs.get(key) for key in report.result.blobs}
            data = await asyncio.to_thread(result_data, files)
            if len(data) <= TASK_BYTES:
                return data, ""
        return None, f"its results have {sum(sizes)} bytes, and at most {TASK_BYTES} can be returned"

    async def _say(self, method: str, request: Message, task: LiveTask) -> None:
        """Tells what the pool may not want to hear any more, which is then let be."""
        told = await self._tell_about(task, method, request)
        if not told.success:
            _log.info("not taken", extra={"method": method, "reason": told.message})

    async def _tell_about(self, task: LiveTask, method: str, request: Message) -> Told:
        """Calls a method about a task; a pool that has no such method takes nothing."""
        try:
            return await self._tell(method, request, task.words)
        except UnsupportedError as error:
            return Told(success=False, message=str(error), code=ErrorCode.INTERNAL_ERROR)

    async def _clean(self, task: LiveTask) -> None:
        await self._blobs.delete_below(result_prefix(task.workload_id))
        await self._blobs.delete(log_key(task.workload_id))
        for archive in (False, True):
            await self._blobs.delete(program_key(task.workload_id, archive=archive))


def _registration(
    registration: NodeRegistration, *, node_id: str, host: str, port: int, location: str
) -> pool.RegisterWorkerNodeRequest:
    """Returns what this machine says of itself. The message has one GPU: the first."""
    capacity = registration.capacity
    gpu = capacity.gpus[0] if capacity.gpus else None
    return pool.RegisterWorkerNodeRequest(
        node_id=node_id,
        hostname=host,
        port=port,
        cpu_cores=max(1, min(INT32, capacity.cpu_milli // CPU_MILLI)),
        cpu_score=min(INT32, capacity.cpu_milli * POINTS_PER_CORE // CPU_MILLI),
        memory_gb=min(INT32, capacity.memory_bytes // GIB),
        gpu_memory_gb=min(INT32, gpu.memory_bytes // GIB) if gpu else 0,
        gpu_name=gpu.name if gpu else "",
        location=location,
        trust_level=_PERCENT,
        docker_status=OFFERS_CONTAINERS if registration.capabilities.containers else "disabled",
    )


def _reading(telemetry: Telemetry | None, registration: NodeRegistration | None) -> pool.RunningStatusRequest:
    if telemetry is None or registration is None:
        return pool.RunningStatusRequest()
    capacity = registration.capacity
    request = pool.RunningStatusRequest(
        cpu_usage=_percent(telemetry.cpu_utilization),
        memory_usage=_percent(telemetry.memory_used_bytes / max(1, capacity.memory_bytes)),
    )
    if telemetry.gpus and capacity.gpus:
        used_bytes = sum(reading.memory_used_bytes for reading in telemetry.gpus)
        all_bytes = sum(gpu.memory_bytes for gpu in capacity.gpus)
        request.gpu_usage = _percent(sum(reading.utilization for reading in telemetry.gpus) / len(telemetry.gpus))
        request.gpu_memory_usage = _percent(used_bytes / max(1, all_bytes))
    return request


def _percent(share: float) -> int:
    return max(0, min(_PERCENT, round(share * _PERCENT)))
