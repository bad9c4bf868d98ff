"""Rules about the end of an attempt: another attempt by the restart policy, or the one terminal phase."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, assert_never

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.handlers.gangs import gang_restarts
from arcray.core.handlers.starting import counted_from
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, RestartRule, Result, Workload

__all__ = ["conclude_eviction", "finish", "give_up", "leave_to_replacement", "requeue", "restarts"]

_FAILURES: Final = frozenset({Cause.OVERTIME, Cause.UNDELIVERED})  # evictions that are no other's gain


def finish(turn: Turn, workload: Workload, phase: Phase, message: str, result: Result | None = None) -> None:
    """Emits the terminal fact. The first journalled fact of a workload carries the whole of it."""
    turn.emit(
        ev.WorkloadFinished(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            phase=phase,
            message=message,
            result=result,
            node_id=workload.node_id,
            placed_at=workload.placed_at,
            started_at=workload.started_at,
            at=turn.now,
            spec=workload.spec if workload.spec.waiting else None,
        )
    )


def restarts(turn: Turn, workload: Workload, phase: Phase, *, lost: bool = False) -> bool:
    """Returns whether the policy wants another attempt after one that ended in ``phase``.

    A drain wants one whatever the policy, for as long as it waits for this copy of a model to answer.

    Args:
        lost: nobody knows how it ended, because its node cannot be asked.
    """
    rested = _rested(turn, workload)
    if workload.spec.gang is not None:
        return gang_restarts(turn, workload, phase, rested=rested, lost=lost)
    policy = workload.spec.restart
    streak = 0 if rested else workload.streak
    waits = turn.state.copies.replaced_by(workload)
    if waits is not None and waits.phase is not Phase.STOPPING and not workload.stop_requested:
        return True
    if workload.stop_requested or (policy.max_restarts is not None and streak >= policy.max_restarts):
        return False
    return _wants(policy.rule, phase, lost=lost)


def _wants(rule: RestartRule, phase: Phase, *, lost: bool) -> bool:
    match rule:
        case RestartRule.NEVER:
            return False
        case RestartRule.ON_LOSS:
            return lost
        case RestartRule.ON_FAILURE:
            return phase is Phase.FAILED
        case RestartRule.ALWAYS:
            return True
        case _:
            assert_never(rule)


def leave_to_replacement(turn: Turn, workload: Workload, reason: str, result: Result | None = None) -> bool:
    """Ends a copy of a model for good in whose place a drain has begun another one; returns whether it has.

    The other one goes on, however far it has come, so of the two never both do.

    Args:
        reason: why its attempt has ended.
        result: as its node reported it.
    """
    replacement = turn.state.copies.replacement_of(workload.id)
    if replacement is None:
        return False
    finish(turn, workload, Phase.STOPPED, f"{reason}: replaced by {replacement.spec.id}", result)
    return True


def conclude_eviction(
    turn: Turn,
    workload: Workload,
    phase: Phase = Phase.STOPPED,
    result: Result | None = None,
    message: str = "",
    *,
    refused: bool = False,
) -> None:
    """Decides what follows the end of an attempt that the cluster asked for.

    What was to start again does; where its node was drained or its place was wanted that counts as no restart. Work
    that ran too long, or that its node could not be told of, has failed, and its restart policy goes by that.

    Args:
        phase: as its node reported it; work that succeeded while it was being stopped has succeeded, but a gang that
            cannot go on starts again as a whole.
        result: as its node reported it; None when it was not asked.
        refused: its node had not begun it, and would not have.
    """
    eviction = workload.eviction
    assert eviction is not None
    reason, exit_code = eviction.reason, result.exit_code if result else None
    ended_well = phase is Phase.SUCCEEDED and workload.spec.restart.rule is not RestartRule.ALWAYS
    if ended_well and eviction.cause is not Cause.GANG and not _gang_waits(turn.state, workload):
        finish(turn, workload, phase, message, result)
    elif eviction.cause in _FAILURES:
        if restarts(turn, workload, Phase.FAILED):
            requeue(turn, workload, reason, restart=True, delay=True, exit_code=exit_code)
        else:
            finish(turn, workload, Phase.FAILED, reason, result)
    elif leave_to_replacement(turn, workload, reason, result):
        return
    elif eviction.fails or (eviction.cause is Cause.DRAIN and workload.spec.restart.rule is RestartRule.NEVER):
        finish(turn, workload, Phase.FAILED, reason, result)  # the latter where the copy in its place has ended too
    else:
        again = eviction.restart
        requeue(turn, workload, reason, restart=again, delay=again, exit_code=exit_code, refused=refused)


def give_up(turn: Turn, workload: Workload, reason: str, *, free_restart: bool = False) -> None:
    """Ends an attempt whose node cannot be asked any longer.

    Args:
        free_restart: the attempt certainly did no work, so another follows whatever the policy.
    """
    if workload.stop_requested:
        finish(turn, workload, Phase.STOPPED, workload.stop_reason or reason)
    elif workload.eviction is not None:
        conclude_eviction(turn, workload)
    elif isinstance(workload.spec.payload, Inference):
        tried = workload.attempt - counted_from(turn, workload)
        if tried < turn.policy.inference_attempts:
            requeue(turn, workload, reason, restart=False, delay=False)
        else:
            finish(turn, workload, Phase.FAILED, f"{reason}, {tried} times")
    elif leave_to_replacement(turn, workload, reason):
        return
    elif free_restart or restarts(turn, workload, Phase.FAILED, lost=True):
        requeue(turn, workload, reason, restart=not free_restart, delay=not free_restart)
    else:
        finish(turn, workload, Phase.FAILED, reason)


def requeue(
    turn: Turn,
    workload: Workload,
    reason: str,
    *,
    restart: bool,
    delay: bool,
    exit_code: int | None = None,
    refused: bool = False,
    begun: bool = False,
) -> None:
    """Emits that another attempt follows, after a back-off when ``delay``; or that none can.

    The back-off goes by restarts, or by how often nodes have refused to begin it or its gang, whichever is longer. A
    gang of which a member has ended for good cannot start again as a whole, so one that would have to has failed.
    """
    gang = workload.spec.gang
    if gang is not None and turn.state.gangs.of(workload.spec).bereft:
        finish(turn, workload, Phase.FAILED, f"{reason}, and gang {gang.id} cannot start again: a member has ended")
        return
    rested = _rested(turn, workload)
    failed = max(0 if rested else workload.streak, workload.refusals if refused else 0)
    wait = turn.policy.backoff(failed) if delay else timedelta(0)
    turn.emit(
        ev.WorkloadRequeued(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            reason=reason,
            restart=restart,
            not_before=turn.now + wait,
            durable=not workload.spec.waiting,
            at=turn.now,
            rested=rested,
            exit_code=exit_code,
            refused=refused,
            gang_refused=_gang_refused(turn.state, workload),
            begun=begun,
        )
    )


def _gang_waits(state: ClusterState, workload: Workload) -> bool:
    """Whether the gang of a workload has a member that waits, so that it starts again as a whole."""
    spec = workload.spec
    return spec.gang is not None and any(state.gangs.of(spec).waits(member) for member in state.gangs.of(spec).members)


def _gang_refused(state: ClusterState, workload: Workload) -> bool:
    """Whether another member waits for its gang to start again because a node would not begin one of them.

    Those who wait all came back since the gang last started, so what they count is of that start.
    """
    if workload.spec.gang is None:
        return False
    gang = state.gangs.of(workload.spec)
    return any(gang.waits(member) and state.workloads[member].refusals for member in gang.members)


def _rested(turn: Turn, workload: Workload) -> bool:
    """Whether the attempt ran long enough for its restarts to be forgotten."""
    return workload.started_at is not None and turn.now - workload.started_at >= turn.policy.restart_rest
