"""What tasks left in the blob store, read for an answer: so much of it as an answer takes, and no more at a time.

Every poll of a task shows the end of its output. While it runs that is read each time; once it has ended it is
remembered for a second, because those who wait for a task ask for it again and again when it is over.

A result of 100 MiB is three times in memory on its way out, for as long as its client takes to read it. So there are a
few of the large ones at a time, and others wait unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from arcray.core.blobkeys import foreign_log_key, log_key, result_path
from arcray.core.errors import BusyError, NotFoundError, ResourceExhaustedError
from arcray.core.ids import WorkloadId
from arcray.core.ports import Clock, ControlPlane
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.outputs import LOG_BYTES, OUTPUT_BYTES, result_data
from arcray.facades.hivemind.returned import returned_key
from arcray.facades.hivemind.uploads import TASK_BYTES

__all__ = ["TaskFiles"]

_REMEMBERED: Final = 256  # tasks; 10 MiB of output at the most
_REMEMBERED_S: Final = 1.0
_AT_ONCE: Final = 2  # results that are put together; each is in memory twice
_SENT: Final = 8  # large results on their way out
_SMALL_BYTES: Final = 128 * 1024
_TURN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Output:
    attempt: int
    until_s: float
    end: bytes


class TaskFiles:
    """Reads files of tasks, for one process."""

    def __init__(self, plane: ControlPlane, clock: Clock) -> None:
        self._blobs = plane.blobs
        self._clock = clock
        self._ended: dict[WorkloadId, _Output] = {}
        self._results = asyncio.Semaphore(_AT_ONCE)
        self._sent = asyncio.Semaphore(_SENT)

    async def output(self, view: WorkloadView, size_bytes: int = OUTPUT_BYTES) -> bytes:
        """Returns the end of what a task wrote."""
        if view.placed_at is None and not view.attempts:
            return b""  # nobody has begun it
        known = None if view.result is None else view.result.log_bytes
        return await self._tail(log_key(view.spec.id), size_bytes, known)

    async def polled_output(self, view: WorkloadView) -> bytes:
        """Returns the same for a poll; of a task that has ended it may be a second old."""
        if not view.phase.terminal:
            return await self.output(view)
        known = self._ended.pop(view.spec.id, None)
        if known is None or known.attempt != view.attempt or known.until_s <= self._clock.monotonic():
            until_s = self._clock.monotonic() + _REMEMBERED_S
            known = _Output(view.attempt, until_s, await self.output(view))
        self._ended[view.spec.id] = known  # the newest last
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        return known.end

    async def logs(self, view: WorkloadView) -> str:
        """Returns the end of what workers logged of a task."""
        return (await self._tail(foreign_log_key(view.spec.id), LOG_BYTES)).decode(errors="replace")

    async def result(
        self, view: WorkloadView, limit_bytes: int = TASK_BYTES, *, until_sent: AsyncExitStack | None = None
    ) -> bytes:
        """Returns the result of a task, as ``outputs.result_data`` has it.

        Args:
            until_sent: ends when a client has it; a large one has its turn until then.

        Raises:
            BusyError: there was no turn for too long.
            NotFoundError: a file of it is gone.
            ResourceExhaustedError: it has more bytes than that.
        """
        keys, total = await self._result_keys(view), 0
        for key in keys:
            total += await self._blobs.size(key) or 0
            _check_size(total, limit_bytes)
        if until_sent is not None and total > _SMALL_BYTES:
            await self._take_turn(until_sent)
        async with self._results:
            try:
                files = {result_path(key): await self._blobs.get(key) for key in keys}
            except NotFoundError as error:
                raise NotFoundError("a file of its result is gone", field="task_id") from error
            data = await asyncio.to_thread(result_data, files)
        _check_size(len(data), limit_bytes)
        return data

    async def _take_turn(self, until_sent: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(_TURN_S):
                await until_sent.enter_async_context(self._sent)
        except TimeoutError:
            raise BusyError(f"{_SENT} large results are on their way; try again shortly") from None

    async def _result_keys(self, view: WorkloadView) -> Sequence[str]:
        """Returns where the result of a task is: as its end tells, else what came after that."""
        if view.result is not None and view.result.blobs:
            return view.result.blobs
        key = returned_key(view)
        return () if await self._blobs.size(key) is None else (key,)

    async def _tail(self, key: str, size_bytes: int, end: int | None = None) -> bytes:
        if end is None:
            end = await self._blobs.size(key)
        if not end:
            return b""
        try:
            return await self._blobs.get(key, max(0, end - size_bytes), end)
        except NotFoundError:
            return b""  # it was deleted meanwhile


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise ResourceExhaustedError(
            f"has more than {limit_bytes} bytes of results; they are given out file by file at /api/v1/workloads",
            field="task_id",
        )
