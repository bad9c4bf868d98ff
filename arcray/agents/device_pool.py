"""A server of the Resource Pool as this machine's node sees it: implements ``Pool``, between session, node and disk.

What lives here: the order in which things are done. What a task needs is on the disk before the node is told to begin
it; what it wrote is read before its end is said, and gone from the disk before its place is another's. What does not:
what is said (``device_session``) and by which connection (``link``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from arcray.agents.device_session import Action, Begin, DeviceSession
from arcray.agents.device_tasks import HeldTask
from arcray.agents.device_words import FILES_BYTES
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key, own_keys, result_path, result_prefix
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import ArcrayError, NotFoundError
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import Order, StopAttempt
from arcray.core.workload import Phase

__all__ = ["DevicePool"]

_log = logging.getLogger(__name__)

Take: TypeAlias = Callable[[Sequence[Order]], Awaitable[None]]

_END_S: Final = 20.0
_CHARACTER_BYTES: Final = 6  # the most that one takes in JSON


class DevicePool:
    """Tells a server, and does what it asks.

    Args:
        take: hands orders to the node.
        output_bytes: of what a task wrote that are told.

    Attributes:
        wake: called whenever the session may have something to say.
    """

    def __init__(self, session: DeviceSession, blobs: FsspecBlobs, *, take: Take, output_bytes: int) -> None:
        self._session = session
        self._blobs = blobs
        self._take = take
        self._output_bytes = output_bytes
        self._end = asyncio.Event()
        self.wake: Callable[[], None] = lambda: None

    # -- the port -----------------------------------------------------------------------------------------------------

    async def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> Sequence[Running]:
        """Takes what this machine is. Whether the server is there matters nothing: it is told once it is."""
        unwanted = self._session.attach(registration, inventory)
        self.wake()
        return unwanted

    async def phase(self, report: ReportPhase) -> None:
        """Tells nothing: the protocol has no word for it."""
        _ = report

    async def end(self, report: ReportEnd) -> None:
        """Tells how a task ended, with what it wrote; what of that is not there any more has it fail.

        Raises:
            UnavailableError: the disk cannot be read now.
        """
        task = self._session.task(report)
        if task is None:
            return
        output, files = "", dict[str, bytes]()
        if not task.silent:
            try:
                report, files = await self._files(report)
                output = await self._output(task, report)
            except NotFoundError as error:
                report = replace(report, phase=Phase.FAILED, message=f"its results are lost: {error}")
        await self._clean(task)
        self._session.ended(task, report, output, files)
        self._end.set()
        self.wake()

    async def reading(self, telemetry: Telemetry | None) -> None:
        """Takes how this machine is, which is told where it has changed."""
        self._session.reading(telemetry)
        self.wake()

    # -- what the server asks -----------------------------------------------------------------------------------------

    async def act(self, actions: Sequence[Action]) -> None:
        """Does what a frame asks for."""
        for action in actions:
            match action:
                case Begin():
                    await self._begin(action)
                case StopAttempt():
                    await self._stop(action)

    async def lost(self) -> None:
        """Ends what a connection has left that is gone; returns once it has ended."""
        await self.end_all(self._session.abandoned())

    async def end_all(self, orders: Sequence[StopAttempt]) -> None:
        """Ends tasks, and waits until nothing runs here any more, but not for long."""
        for order in orders:
            await self._stop(order)
        try:
            async with asyncio.timeout(_END_S):
                while self._session.running:
                    self._end.clear()
                    await self._end.wait()
        except TimeoutError:
            _log.warning("tasks left behind", extra={"tasks": self._session.running})
        self.wake()

    async def _begin(self, begin: Begin) -> None:
        order = begin.order
        try:
            for key, data in begin.blobs.items():
                await self._blobs.put(key, data)
            await self._take([order])
        except ArcrayError as error:
            self._session.undelivered(order, error)
            self.wake()

    async def _stop(self, order: StopAttempt) -> None:
        try:
            await self._take([order])
        except ArcrayError as error:
            _log.warning("task not ended", extra={"workload_id": order.workload_id, "reason": str(error)})

    async def _files(self, report: ReportEnd) -> tuple[ReportEnd, dict[str, bytes]]:
        """Returns what a task left; where that cannot be returned, it has failed."""
        keys = {result_path(key): key for key in report.result.blobs}
        sizes = [await self._blobs.size(key) or 0 for key in keys.values()]
        total_bytes = sum(sizes) + _CHARACTER_BYTES * sum(map(len, keys))
        if total_bytes <= FILES_BYTES:
            return report, {path: await self._blobs.get(key) for path, key in keys.items()}
        message = f"its results have {sum(sizes)} bytes, and at most {FILES_BYTES} can be returned"
        return replace(report, phase=Phase.FAILED, message=message), {}

    async def _output(self, task: HeldTask, report: ReportEnd) -> str:
        """Returns what a task wrote: of a success the beginning, of a failure the end."""
        key = log_key(task.workload_id)
        size = await self._blobs.size(key) or 0
        start = 0 if report.phase is Phase.SUCCEEDED else max(0, size - self._output_bytes)
        data = await self._blobs.get(key, start, start + self._output_bytes) if size else b""
        return data.decode(errors="replace")

    async def _clean(self, task: HeldTask) -> None:
        try:
            for key in own_keys(task.workload_id):
                await self._blobs.delete(key)
            await self._blobs.delete_below(result_prefix(task.workload_id))
        except ArcrayError as error:
            _log.warning("files of a task not removed", extra={"task_id": task.task_id, "reason": str(error)})
