"""One worker's end of its attachment: takes orders, dials the worker with them, tells the cluster what came of it.

What ends is told by the worker itself (``worker_service``); what lives here is what only the dialler knows: that it
began, that it certainly did not, that it was stopped. A few orders are on their way at a time; which, ``worker_queue``
decides.

A start whose fate is unknown is stopped before anything else is said of it: only what certainly does not run may go
elsewhere. A worker that does not answer again and again is let go, and the cluster gives its work up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from arcray.core.commands import DetachNode, ReportEnd, ReportPhase
from arcray.core.errors import (
    ArcrayError,
    InvalidArgumentError,
    NotFoundError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import GetWorkload
from arcray.core.workload import AttemptRecord, Phase, Program, WorkloadView
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.orders import execution_of, foreign_task_id, latest_begun_on, task_id_of
from arcray.facades.hivemind.own_words import saying_allocation, saying_attempt
from arcray.facades.hivemind.worker_begun import BegunWork
from arcray.facades.hivemind.worker_channel import Answer, Certainty, WorkerChannel
from arcray.facades.hivemind.worker_queue import Forget, Item, Unstarted, WorkerQueue
from arcray.wire.blobs import read_blob
from arcray.wire.telling import AGAIN, tell

__all__ = ["Limits", "WorkerLink"]

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 4
_MISSES: Final = 3  # calls in a row without an answer
_SLOW: Final = 20  # the same from a worker that is there
_RETRY_S: Final = 0.5  # doubles
_RETRY_MAX_S: Final = 10.0
_S_PER_MIB: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a link.

    Args:
        orders: that wait, or are on their way.
        dial_timeout_s: longest wait for an answer; a second more for each MiB that is sent.
    """

    orders: int
    dial_timeout_s: float


class _LeftError(Exception):
    """Ends the loops of a link."""


class WorkerLink:
    """Implements ``wire.attachments.AttachedNode`` for one worker.

    Args:
        begun: is told what the worker begins and ends, as far as it is seen here.
        reached: awaited once when the worker was reached first; None where it was reached before.

    Attributes:
        closed: it takes nothing any more; another link has to be made.
    """

    def __init__(
        self,
        node_id: NodeId,
        plane: ControlPlane,
        clock: Clock,
        channel: WorkerChannel,
        *,
        limits: Limits,
        begun: BegunWork,
        reached: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.node_id: Final = node_id
        self.closed = False
        self._plane = plane
        self._clock = clock
        self._channel = channel
        self._limits = limits
        self._begun_work = begun
        self._reached = reached
        self._epoch = 0
        self._queue = WorkerQueue()
        self._changed = asyncio.Event()
        self._leaving = asyncio.Event()
        self._doubted = asyncio.Event()
        self._misses = 0
        self._slow = 0
        self._broke_at: datetime | None = None

    @property
    def epoch(self) -> int:
        """The present attachment; 0 before the first."""
        return self._epoch

    def __len__(self) -> int:
        return len(self._queue)

    def attached(self, epoch: int) -> None:
        """Takes orders of this epoch from now on; what waits is kept."""
        self._epoch = epoch

    def holds(self, work: WorkloadView) -> bool:
        """Returns whether the start of the present attempt has come here, whatever became of it."""
        return self._queue.holds(work)

    def doubts(self, work: WorkloadView) -> bool:
        """Returns whether the connection has broken since work was placed there, as it does where a worker has died."""
        return self._broke_at is not None and work.placed_at is not None and work.placed_at <= self._broke_at

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders, all or none; returns as soon as they are taken. What comes twice is done once.

        Raises:
            StaleReportError: the orders are for an earlier attachment.
            UnavailableError: it is not attached under this epoch yet, or has too much to do; try again.
        """
        if self.closed or epoch > self._epoch:
            raise UnavailableError(f"worker {self.node_id} is not attached under epoch {epoch} here")
        if epoch < self._epoch:
            raise StaleReportError(f"worker {self.node_id} is at epoch {self._epoch}, not {epoch}", field="epoch")
        if len(self) + len(orders) > self._limits.orders:
            raise UnavailableError(f"worker {self.node_id} has {self._limits.orders} orders to work off")
        for order in orders:
            self._queue.put(order)
        self._changed.set()

    def forget(self, workload_id: WorkloadId, attempt: int) -> None:
        """Has the worker end an attempt that the cluster does not count on any more; tells nobody."""
        self._queue.put(Forget(workload_id, attempt))
        self._changed.set()

    def close(self) -> None:
        """Ends ``run``. What the worker does goes on."""
        self.closed = True
        self._leaving.set()

    async def run(self) -> None:
        """Works until it is closed, by its owner or because the cluster knows it no more."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._close_forever())
                group.create_task(self._doubt_forever())
                group.create_task(self._watch_forever())
                for _ in range(_AT_ONCE):
                    group.create_task(self._work_forever())
                if self._reached is not None:
                    group.create_task(self._reach(self._reached))
        except* _LeftError:
            pass
        finally:
            self.closed = True
            await self._channel.close()

    async def _close_forever(self) -> None:
        await self._leaving.wait()
        raise _LeftError

    async def _watch_forever(self) -> None:
        while True:
            await self._channel.broken()
            self._broke_at = self._clock.now()

    async def _doubt_forever(self) -> None:
        """After a call without an answer, finds out whether the worker is there at all: it may have died with work."""
        while True:
            await self._doubted.wait()
            self._doubted.clear()
            wait_s = _RETRY_S
            while not await self._channel.reach(self._limits.dial_timeout_s):
                await self._missed("its worker cannot be reached")
                await self._clock.sleep(wait_s)
                wait_s = min(_RETRY_MAX_S, wait_s * 2)

    async def _reach(self, reached: Callable[[], Awaitable[None]]) -> None:
        wait_s = _RETRY_S
        while not await self._channel.reach(self._limits.dial_timeout_s):
            await self._clock.sleep(wait_s)
            wait_s = min(_RETRY_MAX_S, wait_s * 2)
        while True:
            try:
                await reached()
            except ArcrayError as error:
                _log.warning("worker not offered yet", extra={"node_id": self.node_id, "reason": str(error)})
                await self._clock.sleep(_RETRY_MAX_S)
            else:
                return

    async def _work_forever(self) -> None:
        while True:
            item = self._queue.take()
            if item is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._do(item)
            except _LeftError:
                raise
            except Exception:  # noqa: BLE001 - a loop boundary: one order's bug must not take all workers with it
                _log.exception(
                    "order failed by our fault", extra={"node_id": self.node_id, "order": type(item).__name__}
                )
                if isinstance(item, StartWorkload):
                    await self._end(item, Phase.FAILED, "the gateway failed; its log has the details")
            finally:
                self._queue.done(item)
                self._changed.set()

    async def _do(self, item: Item) -> None:
        match item:
            case StartWorkload():
                await self._start(item)
            case StopAttempt():
                await self._stopped(item, await self._task_id(item.workload_id, item.attempt), item.grace_s)
                await self._end(item, Phase.STOPPED, "stopped on request")
            case Unstarted(order):
                await self._end(order, Phase.STOPPED, "stopped before it started")
            case Forget(workload_id, attempt):
                await self._stopped(item, await self._task_id(workload_id, attempt))
            case RunInference():
                await self._end(item, Phase.FAILED, "a worker answers no requests", refused=True)
            case _:
                assert_never(item)

    # -- starting and stopping ----------------------------------------------------------------------------------------

    async def _start(self, order: StartWorkload) -> None:
        history: Sequence[AttemptRecord] = ()
        if order.attempt > 1:
            work = await self._work(order.workload_id)
            if work is None or work.attempt != order.attempt:
                _log.info("start is of an earlier attempt", extra=_fields(self.node_id, order))
                return
            history = work.attempts
            earlier = latest_begun_on(work, self.node_id, order.attempt)
            if earlier is not None:  # whatever became of it, the machine is free before the next one begins
                await self._stopped(Forget(order.workload_id, earlier), task_id_of(work, earlier))
        try:
            request = await self._request(order, history)
        except (NotFoundError, InvalidArgumentError) as error:
            await self._end(order, Phase.FAILED, str(error))  # so it would everywhere
            return
        except ArcrayError as error:
            await self._end(order, Phase.FAILED, str(error), refused=True)
            return
        answer = await self._dial(order, request)
        match answer.certainty:
            case Certainty.ACCEPTED:
                self._misses = self._slow = 0
                await self._begun(order, request.task_id)
            case Certainty.REFUSED:
                self._misses = self._slow = 0
                await self._end(order, Phase.FAILED, answer.message, refused=True)
            case Certainty.UNREACHED:
                await self._end(order, Phase.FAILED, answer.message, refused=True)
                await self._missed(answer.message, slow=answer.slow)
            case Certainty.UNKNOWN:
                _log.warning("worker may have a task", extra=_fields(self.node_id, order) | _told(answer))
                await self._missed(answer.message, slow=answer.slow)
                await self._stopped(order, request.task_id)
                await self._end(order, Phase.FAILED, answer.message, refused=True, begun=True)
            case _:
                assert_never(answer.certainty)

    async def _dial(self, order: StartWorkload, request: pool.ExecuteTaskRequest) -> Answer:
        timeout_s = self._limits.dial_timeout_s + _S_PER_MIB * (len(request.task_data) >> 20)
        words = {**saying_allocation(order.allocation), **saying_attempt(order)}
        self._begun_work.began(self.node_id, order.workload_id, order.attempt)  # before it may say that it has ended it
        answer = await self._channel.execute(request, timeout_s, words)
        _log.debug("worker dialled", extra=_fields(self.node_id, order) | _told(answer))
        if answer.certainty in (Certainty.REFUSED, Certainty.UNREACHED):
            self._begun_work.ended(self.node_id, order.workload_id, order.attempt)
        return answer

    async def _request(self, order: StartWorkload, history: Sequence[AttemptRecord]) -> pool.ExecuteTaskRequest:
        code = stdin = b""
        if isinstance(order.payload, Program):
            code = await read_blob(self._plane.blobs, order.payload.blob)
            if order.payload.stdin_blob:
                stdin = await read_blob(self._plane.blobs, order.payload.stdin_blob)
        return await asyncio.to_thread(execution_of, order, code, stdin, history=history)

    async def _begun(self, order: StartWorkload, task_id: str) -> None:
        report = ReportPhase(
            node_id=self.node_id,
            epoch=self._epoch,
            workload_id=order.workload_id,
            attempt=order.attempt,
            phase=Phase.RUNNING,
        )
        if not await self._tell(report):
            await self._stopped(order, task_id)

    async def _stopped(self, which: StartWorkload | StopAttempt | Forget, task_id: str, grace_s: float = 0.0) -> None:
        """Returns once the worker has said that it does not do this any more, or that it never did."""
        wait_s = _RETRY_S
        while True:
            answer = await self._channel.stop(task_id, self._limits.dial_timeout_s + grace_s)
            if answer.certainty in (Certainty.ACCEPTED, Certainty.REFUSED):
                self._misses = self._slow = 0
                self._begun_work.ended(self.node_id, which.workload_id, which.attempt)
                return
            await self._missed(answer.message, slow=answer.slow)
            await self._clock.sleep(wait_s)
            wait_s = min(_RETRY_MAX_S, wait_s * 2)

    async def _missed(self, reason: str, *, slow: bool = False) -> None:
        """Counts a call without an answer; lets the worker go at the last of several in a row.

        Args:
            slow: it is there, and may be busy; what it is at it says by its heartbeats.
        """
        self._slow += slow
        self._misses += not slow
        self._doubted.set()
        if self._misses < _MISSES and self._slow < _SLOW:
            return
        _log.warning("worker does not answer", extra={"node_id": self.node_id, "reason": reason})
        await self._tell(DetachNode(node_id=self.node_id, epoch=self._epoch, reason=reason))
        raise _LeftError

    async def _task_id(self, workload_id: WorkloadId, attempt: int) -> str:
        work = await self._work(workload_id)
        return foreign_task_id(workload_id, attempt) if work is None else task_id_of(work, attempt)

    async def _work(self, workload_id: WorkloadId) -> WorkloadView | None:
        """Returns what the cluster knows of a workload, once it answers; None where it knows none."""
        while True:
            try:
                view: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id))
            except NotFoundError:
                return None
            except ArcrayError as error:
                if error.code not in AGAIN:
                    raise
                await self._clock.sleep(_RETRY_S)
            else:
                return view

    # -- telling the cluster ------------------------------------------------------------------------------------------

    async def _end(
        self, order: Order, phase: Phase, message: str, *, refused: bool = False, begun: bool = False
    ) -> None:
        await self._tell(
            ReportEnd(
                node_id=self.node_id,
                epoch=self._epoch,
                workload_id=order.workload_id,
                attempt=order.attempt,
                phase=phase,
                message=message,
                refused=refused,
                begun=begun,
            )
        )

    async def _tell(self, report: ReportPhase | ReportEnd | DetachNode) -> bool:
        """Tells the cluster, until it has answered; returns whether it still wants the work."""
        return await tell(
            self._plane,
            self._clock,
            report,
            epoch=lambda: self._epoch,
            lost=self._lost,
            first_s=_RETRY_S,
            longest_s=_RETRY_MAX_S,
        )

    async def _lost(self, error: ArcrayError) -> bool:
        _log.info("worker is another's now", extra={"node_id": self.node_id, "reason": str(error)})
        raise _LeftError from error


def _fields(node_id: NodeId, order: StartWorkload) -> dict[str, object]:
    return {"node_id": node_id, "workload_id": order.workload_id, "attempt": order.attempt}


def _told(answer: Answer) -> dict[str, object]:
    return {"certainty": answer.certainty.name, "reason": answer.message}
