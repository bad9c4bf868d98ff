"""Rules about dead letters: work that ended badly without anybody wishing so, kept until someone deals with it.

There is no second queue: whether a workload is one follows from its own state (``Workload.dead``). It is dealt with
once, by another workload that tries again (``WorkloadSpec.replay_of``) or by putting it away.
"""

from __future__ import annotations

from arcray.core import events as ev
from arcray.core.commands import DiscardWorkload
from arcray.core.errors import ConflictError, NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.turn import Turn
from arcray.core.workload import Phase, Workload, WorkloadSpec

__all__ = ["check_replay", "on_discard_workload"]


def on_discard_workload(turn: Turn, command: DiscardWorkload) -> None:
    """Puts a dead letter away; again changes nothing."""
    workload = turn.state.workloads.get(command.workload_id)
    if workload is None or command.account not in (None, workload.spec.origin.account):
        raise _unknown(command.workload_id)
    if workload.discarded:
        return
    _check_unsettled(workload)
    turn.emit(ev.WorkloadSettled(workload_id=workload.spec.id, replayed_by=None, at=turn.now))


def check_replay(turn: Turn, spec: WorkloadSpec) -> None:
    """Refuses to try again what is no dead letter of the same account.

    A request whose sender waited is none and may be replayed all the same: its row keeps its input.

    Raises:
        NotFoundError: no such workload, or of another account.
        ConflictError: it did not end badly, or somebody has dealt with it.
    """
    assert spec.replay_of is not None
    workload = turn.state.workloads.get(spec.replay_of)
    if workload is None or workload.spec.origin.account != spec.origin.account:
        raise _unknown(spec.replay_of)
    if workload.discarded:
        raise ConflictError(f"workload {workload.spec.id} was discarded", field="id")
    _check_unsettled(workload)


def _check_unsettled(workload: Workload) -> None:
    if workload.replayed_by is not None:
        raise ConflictError(f"workload {workload.spec.id} was replayed as {workload.replayed_by}", field="id")
    if workload.phase not in (Phase.FAILED, Phase.REJECTED):
        raise ConflictError(f"workload {workload.spec.id} is {workload.phase}, no dead letter", field="id")


def _unknown(workload_id: WorkloadId) -> NotFoundError:
    return NotFoundError(f"no workload {workload_id}", field="id")
