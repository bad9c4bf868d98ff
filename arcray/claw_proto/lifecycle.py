"""What may follow what in the life of a workload.

The document has the states and no table; the first implementation has a table and no ``pulling``. This is that table
with pulling put between pending and starting, and with a way to stop what pulls or starts. Stopped, failed and
completed have no exits, not even to themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from arcray.claw_proto.errors import ValidationError
from arcray.claw_proto.timestamp import Timestamp
from arcray.claw_proto.types import WorkloadState, WorkloadStatus

__all__ = ["ORIGINAL_TRANSITIONS", "TRANSITIONS", "Transitions", "advance", "moved"]

_S = WorkloadState

Transitions: TypeAlias = Mapping[WorkloadState, frozenset[WorkloadState]]
"""The states that each state leads to."""

TRANSITIONS: Final[Transitions] = {
    _S.PENDING: frozenset({_S.PENDING, _S.PULLING, _S.STARTING, _S.STOPPED, _S.FAILED}),
    _S.PULLING: frozenset({_S.STARTING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.RUNNING, _S.STOPPING, _S.COMPLETED, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
    _S.COMPLETED: frozenset(),
}

ORIGINAL_TRANSITIONS: Final[Transitions] = {
    **TRANSITIONS,
    _S.PENDING: TRANSITIONS[_S.PENDING] - {_S.PULLING},
    _S.PULLING: frozenset(),
    _S.STARTING: TRANSITIONS[_S.STARTING] - {_S.STOPPING},
}
"""What the first implementation itself allows. A gateway goes by ``TRANSITIONS`` for its nodes too."""


def advance(state: WorkloadState, to: WorkloadState, table: Transitions = TRANSITIONS) -> WorkloadState:
    """Returns the state of a workload after it was told to have gone to ``to``.

    What completes while it is being stopped has stopped: its end was asked for, and came.

    Raises:
        ValidationError: the table does not allow it; names both states.
    """
    if state is _S.STOPPING and to is _S.COMPLETED:
        return _S.STOPPED
    if to not in table[state]:
        raise ValidationError(f"{state} does not lead to {to}", field="state")
    return to


def moved(status: WorkloadStatus, to: WorkloadState, at: Timestamp, exit_code: int | None = None) -> WorkloadStatus:
    """Returns a status after a step: when it first ran, and when it ended.

    Raises:
        ValidationError: the table does not allow the step.
    """
    state = advance(status.state, to)
    return replace(
        status,
        state=state,
        started_at=at if state is _S.RUNNING and status.started_at is None else status.started_at,
        finished_at=at if state.is_terminal else status.finished_at,
        exit_code=status.exit_code if exit_code is None else exit_code,
    )
