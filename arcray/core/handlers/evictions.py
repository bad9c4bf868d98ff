"""Rules about evictions: the cluster, and not its owner, asks for the end of an attempt.

Its node is asked to stop it with grace, as for any stop. What follows its end is decided with all other ends
(``attempts``).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from heapq import heappop

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.handlers.attempts import give_up
from arcray.core.handlers.stopping import stop_order
from arcray.core.operation_facts import look_for_overtime
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Phase, RestartRule, Workload

__all__ = ["evict", "may_move", "stop_overtime"]


def may_move(state: ClusterState, workload: Workload) -> bool:
    """Returns whether an attempt may be ended for another one: it may run twice, and its gang can start again."""
    spec = workload.spec
    return spec.restart.rule is not RestartRule.NEVER and (spec.gang is None or not state.gangs.of(spec).bereft)


def evict(turn: Turn, workload: Workload, cause: Cause, reason: str, grace_s: float, *, fails: bool = False) -> None:
    """Asks for the end of a placed attempt; one that is ending stays as it is.

    Args:
        fails: no attempt follows.
    """
    if workload.phase.terminal or workload.phase in (Phase.STOPPING, Phase.PENDING) or workload.node_id is None:
        return
    turn.emit(
        ev.WorkloadEvicted(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            cause=cause,
            reason=reason,
            restart=False,
            fails=fails,
            at=turn.now,
        )
    )
    turn.order(turn.state.nodes[workload.node_id], stop_order(workload, grace_s))


def stop_overtime(turn: Turn) -> None:
    """Does what a node forgot: ends work that runs longer than it may, and gives it up where even that is not heard.

    What is ending already, whoever asked for that, is asked once more and given up as late; what follows is decided by
    what asked first.
    """
    state = turn.state
    while state.overtime and state.overtime[0][0] <= turn.now:
        _, workload_id, attempt = heappop(state.overtime)
        workload = state.workloads.get(workload_id)
        if workload is None or workload.attempt != attempt or workload.phase.terminal:
            continue
        if workload.phase is Phase.RUNNING:
            evict(turn, workload, Cause.OVERTIME, f"ran longer than {workload.spec.max_duration_s:g} s", grace_s=0.0)
        elif workload.phase is Phase.STOPPING and workload.node_id is not None:
            turn.order(state.nodes[workload.node_id], stop_order(workload, 0.0))
            if turn.now >= _should_have_ended(workload) + 2 * turn.policy.overtime_grace:
                give_up(turn, workload, "its node did not end it")
            else:
                look_for_overtime(state, workload, turn.now)


def _should_have_ended(workload: Workload) -> datetime:
    assert workload.started_at is not None
    assert workload.spec.max_duration_s is not None
    return workload.started_at + timedelta(seconds=workload.spec.max_duration_s)
