"""The attempts that one node was given: where each stands, and what the node may say of it. No I/O.

Orders come at least once and are sent once; an attempt that has ended is remembered for a while, so that its order does
not start it again. A node's word is held against the table of states: what it does not allow changes nothing here, and
is for whoever hears it to record.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import Dialect
from arcray.core.commands import Running
from arcray.core.errors import NotFoundError
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.facades.claw.replies import wire_id

__all__ = ["Attempts", "Step"]

_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """An attempt went to a state, as its node says.

    Args:
        state: where it stands now; for ``reports.report_of``.
        before: where it stood.
        refused: it has failed, and was never begun: all of it was heard, and nothing but pending lay before.
    """

    work: Running
    state: WorkloadState
    before: WorkloadState
    refused: bool = False


@dataclass(slots=True)
class _Attempt:
    work: Running
    state: WorkloadState
    stop_asked: bool = False
    resumed: bool = False


class Attempts:
    """The attempts of one node.

    Args:
        dialect: of the node. One of the first implementation tells of no start, and of no stopping: it is taken to
            start when it is told to.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._first = WorkloadState.STARTING if dialect is Dialect.ORIGINAL else WorkloadState.PENDING
        self._live: dict[claw.WorkloadId, _Attempt] = {}
        self._ended: OrderedDict[claw.WorkloadId, Running] = OrderedDict()

    def __len__(self) -> int:
        """Returns how many have not ended."""
        return len(self._live)

    def give(self, order: StartWorkload) -> bool:
        """Takes an attempt up that its node is about to be sent; returns whether it is to be sent at all.

        It is not where the node was given it before, whatever became of it.
        """
        name = wire_id(order.workload_id, order.attempt)
        if name in self._live or name in self._ended:
            return False
        self._live[name] = _Attempt(Running(workload_id=order.workload_id, attempt=order.attempt), self._first)
        return True

    def resume(self, work: Running, state: WorkloadState) -> None:
        """Takes an attempt up that its node was given over an earlier connection, and where it says that it stands.

        What lay between was not heard, so no table is asked. One that has ended meanwhile is only remembered.
        """
        name = wire_id(work.workload_id, work.attempt)
        if state.is_terminal:
            self._end(name, work)
        else:
            self._live[name] = _Attempt(work, state, stop_asked=state is WorkloadState.STOPPING, resumed=True)

    def withdraw(self, work: Running) -> None:
        """Forgets an attempt that could not be sent after all, as if it had never been given."""
        self._live.pop(wire_id(work.workload_id, work.attempt), None)

    def stop(self, asked: StopAttempt | Running) -> bool:
        """Notes that an attempt is to end; returns whether its node has to be told.

        It has not where the attempt is not there, or has ended.
        """
        found = self._live.get(wire_id(asked.workload_id, asked.attempt))
        if found is None:
            return False
        found.stop_asked = True
        self._turn_to_stopping(found)
        return True

    def told(self, name: claw.WorkloadId, state: WorkloadState) -> Step:
        """Takes a node's word of an attempt.

        Args:
            name: by which it knows the attempt.

        Raises:
            NotFoundError: it has no such attempt, or it has ended.
            ValidationError: the attempt cannot have gone there; names both states.
        """
        found = self._live.get(name)
        if found is None:
            raise NotFoundError("no such workload on this node", field="workload_id")
        before = found.state
        found.state = claw.advance(before, state)
        if found.state.is_terminal:
            del self._live[name]
            self._end(name, found.work)
        elif found.stop_asked:
            self._turn_to_stopping(found)  # it was asked before it had begun
        never_begun = found.state is WorkloadState.FAILED and before is WorkloadState.PENDING and not found.resumed
        return Step(found.work, found.state, before, refused=never_begun)

    def known(self, name: claw.WorkloadId) -> Running | None:
        """Returns the attempt of this name, also one that has ended not long ago; None where there is none."""
        live = self._live.get(name)
        return self._ended.get(name) if live is None else live.work

    def inventory(self) -> tuple[Running, ...]:
        """Returns what has not ended, in the order in which it was given."""
        return tuple(each.work for each in self._live.values())

    def _turn_to_stopping(self, found: _Attempt) -> None:
        # What has not begun has no way to stopping in the table: its node says stopped, or that it begins first.
        if found.state not in (WorkloadState.PENDING, WorkloadState.STOPPING):
            found.state = claw.advance(found.state, WorkloadState.STOPPING)

    def _end(self, name: claw.WorkloadId, work: Running) -> None:
        self._ended[name] = work
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
