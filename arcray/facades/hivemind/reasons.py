"""Why tasks wait, for those who poll. To find out is work of the scheduler, over every node, so it is asked seldom.

What was found is told for some seconds, and one question is under way at a time with a pause after it; a poll that
comes meanwhile is answered with what is known, or with nothing. So polling costs the scheduler the same however much of
it there is.
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import ArcrayError
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import WorkloadId
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import ExplainWorkload
from arcray.core.workload import Phase, WorkloadView

__all__ = ["Reasons"]

_KEPT_S: Final = 5.0
_PAUSE_S: Final = 0.05  # twenty questions a second at the most
_MOST: Final = 1_024


class Reasons:
    """Knows why tasks wait, for one process."""

    def __init__(self, plane: ControlPlane, clock: Clock) -> None:
        self._plane = plane
        self._clock = clock
        self._known: dict[WorkloadId, tuple[float, str]] = {}  # until when, and the sentence; the newest last
        self._asking = False
        self._rests_until_s = float("-inf")

    async def of(self, view: WorkloadView) -> str:
        """Returns what a task waits for, for people; "" where it waits for nothing, or that is not known now."""
        if view.phase is not Phase.PENDING:
            return ""
        now_s = self._clock.monotonic()
        until_s, sentence = self._known.get(view.spec.id, (now_s, ""))
        if until_s > now_s or self._asking or now_s < self._rests_until_s:
            return sentence
        self._asking = True
        try:
            found: WorkloadExplanation = await self._plane.query(ExplainWorkload(workload_id=view.spec.id))
            sentence = found.sentence()
        except ArcrayError:
            sentence = ""  # it has gone, or the scheduler has no time for this
        finally:
            self._asking = False
            self._rests_until_s = self._clock.monotonic() + _PAUSE_S
        self._keep(view.spec.id, sentence)
        return sentence

    def _keep(self, workload_id: WorkloadId, sentence: str) -> None:
        self._known.pop(workload_id, None)
        self._known[workload_id] = (self._clock.monotonic() + _KEPT_S, sentence)
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
