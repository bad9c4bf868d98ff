"""Telling the cluster of the work of a node that this process is connected to, until it has answered.

The scheduler may be away, and the node may be attached again meanwhile: a report is told under the attachment that
stands, and what is refused for an older one is told again. What a node is to this process once the cluster knows it by
another attachment, or no more, its connection says (``lost``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeAlias

from arcray.core.commands import DetachNode, ReportEnd, ReportPhase
from arcray.core.errors import ArcrayError, Code, IllegalTransitionError
from arcray.core.ports import Clock, ControlPlane
from arcray.wire.asking import ask

__all__ = ["AGAIN", "Report", "tell"]

_log = logging.getLogger(__name__)

AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
"""Refusals that say nothing of what was asked: the same may be taken later."""

_UNWANTED: Final = frozenset({Code.STALE_REPORT, Code.NOT_FOUND, Code.CONFLICT})
_NOT_ITS_OWN: Final = frozenset({(Code.STALE_REPORT, "epoch"), (Code.NOT_FOUND, "nodeId")})

Report: TypeAlias = ReportPhase | ReportEnd | DetachNode


async def tell(
    plane: ControlPlane,
    clock: Clock,
    report: Report,
    *,
    epoch: Callable[[], int],
    lost: Callable[[ArcrayError], Awaitable[bool]],
    first_s: float,
    longest_s: float,
) -> bool:
    """Tells the cluster; returns whether it still wants the work.

    Args:
        report: of any epoch; it is told with the present one.
        epoch: returns the present attachment.
        lost: awaited where that is not the node's any more; returns whether to tell it again. Where not, the work is
            wanted: whoever attached the node since knows of it.
        first_s, longest_s: between two tries while the scheduler is away; doubles.
    """
    wait_s = first_s
    while True:
        present = epoch()
        try:
            await ask(plane, replace(report, epoch=present))
        except ArcrayError as error:
            if error.code in AGAIN:
                await clock.sleep(wait_s)
                wait_s = min(longest_s, wait_s * 2)
                continue
            if (error.code, error.field) in _NOT_ITS_OWN:
                if present != epoch() or await lost(error):
                    continue
                return True
            fields = {"node_id": report.node_id, "report": type(report).__name__, "reason": str(error)}
            if not isinstance(report, DetachNode):
                fields["workload_id"] = report.workload_id
            _log.info("report refused", extra=fields)
            return error.code not in _UNWANTED or isinstance(error, IllegalTransitionError)
        return True
