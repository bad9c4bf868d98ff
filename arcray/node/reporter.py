"""Reports on their way to the cluster: kept until they are acknowledged, in order, batched adaptively.

One call is in flight; what happens meanwhile goes with the next one, so an idle machine tells at once and a busy one in
large batches. Readings and model lists are slots, not queues: only the newest counts.

The queue is bounded by what the agent has taken on: an attempt has a handful of phases and one end, and the agent takes
no orders while too many ends wait here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from arcray.core.commands import ReportEnd, ReportModels, ReportPhase, ReportTelemetry, Running
from arcray.core.errors import ArcrayError, Code, IllegalTransitionError, UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.ports import Clock, ControlPlane

__all__ = ["Report", "Reporter", "is_unwanted", "lease_is_lost"]

_log = logging.getLogger(__name__)

_BATCH: Final = 2_048
_RETRY_S: Final = 0.1  # doubles
_RETRY_MAX_S: Final = 5.0
_RETRIED: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})

Report: TypeAlias = ReportPhase | ReportEnd | ReportModels | ReportTelemetry


class Reporter:
    """Sends reports of one attachment after the other.

    Args:
        refused: told each report that was refused, and why; it may hand a later edition of it back by ``requeue``.
        replied: told each reply to a reading.
    """

    def __init__(
        self,
        *,
        plane: ControlPlane,
        clock: Clock,
        refused: Callable[[Report, ArcrayError], None],
        replied: Callable[[Any], None],
    ) -> None:
        self._plane = plane
        self._clock = clock
        self._refused = refused
        self._replied = replied
        self._queue: deque[ReportPhase | ReportEnd] = deque()
        self._in_call: tuple[Report, ...] = ()
        self._models: ReportModels | None = None
        self._telemetry: ReportTelemetry | None = None
        self._something = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue) + len(self._in_call)

    def report(self, report: ReportPhase | ReportEnd) -> None:
        """Takes what happened to an attempt."""
        self._queue.append(report)
        self._wake()

    def models(self, report: ReportModels) -> None:
        """Takes the models that are answered for now, instead of any list that still waits."""
        self._models = report
        self._wake()

    def telemetry(self, report: ReportTelemetry) -> None:
        """Takes a reading, instead of any that still waits."""
        self._telemetry = report
        self._wake()

    def pause(self) -> None:
        """Sends nothing more until ``resume``: the attachment is gone."""
        self._open.clear()

    def resume(self, epoch: int) -> None:
        """Sends what waits as reports of a new attachment."""
        self._queue = deque(dataclasses.replace(report, epoch=epoch) for report in self._queue)
        self._models = dataclasses.replace(self._models, epoch=epoch) if self._models else None
        self._telemetry = None
        self._open.set()

    def drop(self, work: Running) -> None:
        """Forgets what waits about an attempt that nobody wants to hear of any more."""
        self._queue = deque(report for report in self._queue if _about(report) != (work.workload_id, work.attempt))

    def waiting_ends(self) -> tuple[Running, ...]:
        """Returns the attempts whose end is not acknowledged yet."""
        ends = (*self._in_call, *self._queue)
        return tuple(
            Running(workload_id=each.workload_id, attempt=each.attempt) for each in ends if isinstance(each, ReportEnd)
        )

    async def drained(self) -> None:
        """Returns once nothing waits and no call is in flight."""
        await self._idle.wait()

    async def run_forever(self) -> None:
        """Sends until cancelled."""
        wait_s = _RETRY_S
        while True:
            await self._something.wait()
            await self._open.wait()
            batch = self._take()
            if not batch:
                self._something.clear()
                self._idle.set()
                continue
            self._in_call = batch
            try:
                replies = await self._plane.submit(batch)
            except UnavailableError as error:
                _log.warning("reports wait for the scheduler", extra={"reports": len(batch), "reason": error.message})
                again = list(batch)
            else:
                again = self._sort_out(batch, replies)
            finally:
                self._in_call = ()
            if again:
                self._put_back(again)
                await self._clock.sleep(wait_s)
                wait_s = min(_RETRY_MAX_S, wait_s * 2)
            else:
                wait_s = _RETRY_S

    def _take(self) -> tuple[Report, ...]:
        """Returns the next batch: models first, for what the cluster does about the ends depends on them."""
        batch: list[Report] = []
        if self._models is not None:
            batch.append(self._models)
            self._models = None
        while self._queue and len(batch) < _BATCH:
            batch.append(self._queue.popleft())
        if self._telemetry is not None:
            batch.append(self._telemetry)
            self._telemetry = None
        return tuple(batch)

    def _sort_out(self, batch: tuple[Report, ...], replies: list[Any]) -> list[Report]:
        """Acts on the replies; returns what is to be sent again."""
        again: list[Report] = []
        for report, reply in zip(batch, replies, strict=True):
            if not isinstance(reply, ArcrayError):
                if isinstance(report, ReportTelemetry):
                    self._replied(reply)
            elif reply.code in _RETRIED:
                again.append(report)
            else:
                self._refused(report, reply)
        return again

    def _put_back(self, reports: list[Report]) -> None:
        for report in reversed(reports):
            match report:
                case ReportPhase() | ReportEnd():
                    self._queue.appendleft(report)
                case ReportModels():
                    self._models = self._models or report
                case ReportTelemetry():
                    self._telemetry = self._telemetry or report
        self._wake()

    def _wake(self) -> None:
        self._something.set()
        self._idle.clear()


def lease_is_lost(error: ArcrayError) -> bool:
    """Returns whether the node, not the attempt, is what the cluster does not know."""
    return (error.code, error.field) in ((Code.STALE_REPORT, "epoch"), (Code.NOT_FOUND, "nodeId"))


def is_unwanted(error: ArcrayError) -> bool:
    """Returns whether the attempt is over for the cluster. A phase out of order is only a word too late."""
    return error.code in (Code.STALE_REPORT, Code.NOT_FOUND, Code.CONFLICT) and not isinstance(
        error, IllegalTransitionError
    )


def _about(report: ReportPhase | ReportEnd) -> tuple[WorkloadId, int]:
    return report.workload_id, report.attempt
