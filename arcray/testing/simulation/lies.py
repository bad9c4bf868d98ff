"""Lies: reports that no honest machine would send, and that the cluster must not take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final, assert_never

from arcray.core.commands import Command, ReportEnd, ReportPhase
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.workload import Phase, Result
from arcray.testing.simulation.workshop import Run

__all__ = ["LIE", "LieKind", "lie"]

LIE: Final = "a lie"
"""What stands in the result of every lie, so that one that was taken is found on disk."""

_MUCH_LATER: Final = 1_000  # the next one may be the present one by now, whose end is the machine's to tell


class LieKind(StrEnum):
    """What is wrong with a report."""

    OLDER_ATTEMPT = "older attempt"
    LATER_ATTEMPT = "later attempt"
    OTHER_MACHINE = "other machine"
    OLDER_EPOCH = "older epoch"
    NO_LIVE_PHASE = "no live phase"
    NO_END = "no end"
    NO_SUCH_WORK = "no such work"


def lie(kind: LieKind, node_id: NodeId, epoch: int, runs: Sequence[Run], draw: int) -> Command | None:
    """Returns a report that is wrong, or None when there is nothing to lie about yet.

    Args:
        epoch: of the machine's present attachment.
        runs: every execution so far, on whatever machine.
    """
    newest = {run.order.workload_id: run.order.attempt for run in runs}
    match kind:
        case LieKind.OLDER_ATTEMPT:
            # Of work that is here again, where nothing but the number of the attempt is wrong.
            here = {run.order.workload_id for run in runs if run.node_id == node_id and not run.ended}
            chosen = [run for run in runs if run.order.workload_id in here and _attempt(run) < newest[_work(run)]]
        case LieKind.OTHER_MACHINE:
            chosen = [run for run in runs if run.node_id != node_id and not run.ended]
        case _:
            chosen = [run for run in runs if run.node_id == node_id]
    if not chosen:
        return None
    run = chosen[draw % len(chosen)]
    end = ReportEnd(
        node_id=node_id,
        epoch=epoch,
        workload_id=_work(run),
        attempt=_attempt(run),
        phase=Phase.SUCCEEDED,
        message=LIE,
        result=Result(exit_code=0, blobs=(LIE,)),
    )
    return _bend(kind, end)


def _bend(kind: LieKind, end: ReportEnd) -> Command:
    match kind:
        case LieKind.OLDER_ATTEMPT | LieKind.OTHER_MACHINE:
            return end
        case LieKind.LATER_ATTEMPT:
            return replace(end, attempt=end.attempt + _MUCH_LATER)
        case LieKind.OLDER_EPOCH:
            return replace(end, epoch=end.epoch - 1)
        case LieKind.NO_LIVE_PHASE:
            return ReportPhase(
                node_id=end.node_id,
                epoch=end.epoch,
                workload_id=end.workload_id,
                attempt=end.attempt,
                phase=Phase.STOPPING,
                message=LIE,
            )
        case LieKind.NO_END:
            return replace(end, phase=Phase.REJECTED)
        case LieKind.NO_SUCH_WORK:
            return replace(end, workload_id=WorkloadId("ffffffff-ffff-4fff-8fff-ffffffffffff"))
        case _:
            assert_never(kind)


def _work(run: Run) -> WorkloadId:
    return run.order.workload_id


def _attempt(run: Run) -> int:
    return run.order.attempt
