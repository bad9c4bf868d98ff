"""Rules about the end of an attempt: another attempt by the restart policy, or the one terminal phase."""

from __future__ import annotations

from arcray.core import events as ev
from arcray.core.handlers.gangs import gang_restarts
from arcray.core.handlers.starting import counted_from
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, RestartRule, Result, Workload

__all__ = ["end_evicted", "finish", "give_up", "requeue", "starts_again"]


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


def starts_again(turn: Turn, workload: Workload, phase: Phase) -> bool:
    """Returns whether the policy wants another attempt after one that ended in ``phase``."""
    if workload.spec.gang is not None:
        return gang_restarts(turn, workload, phase)
    policy = workload.spec.restart
    if workload.stop_requested or (policy.max_restarts is not None and workload.restarts >= policy.max_restarts):
        return False
    return policy.rule is RestartRule.ALWAYS or (policy.rule is RestartRule.ON_FAILURE and phase is Phase.FAILED)


def give_up(turn: Turn, workload: Workload, reason: str, *, free_restart: bool = False) -> None:
    """Ends an attempt whose node cannot be asked any longer.

    Args:
        free_restart: the attempt certainly did no work, so another follows whatever the policy.
    """
    if workload.stop_requested:
        finish(turn, workload, Phase.STOPPED, workload.stop_reason or reason)
    elif workload.eviction is not None:
        end_evicted(turn, workload)
    elif isinstance(workload.spec.payload, Inference):
        tried = workload.attempt - counted_from(turn, workload)
        if tried < turn.policy.inference_attempts:
            requeue(turn, workload, reason, restart=False, delay=False)
        else:
            finish(turn, workload, Phase.FAILED, f"{reason}, {tried} times")
    elif free_restart or starts_again(turn, workload, Phase.FAILED):
        requeue(turn, workload, reason, restart=not free_restart, delay=not free_restart)
    else:
        finish(turn, workload, Phase.FAILED, reason)


def end_evicted(turn: Turn, workload: Workload, result: Result | None = None) -> None:
    """Ends an attempt that the cluster asked to end."""
    eviction = workload.eviction
    assert eviction is not None
    if eviction.fails:
        finish(turn, workload, Phase.FAILED, eviction.reason, result)
    else:
        requeue(turn, workload, eviction.reason, restart=eviction.restart, delay=eviction.restart)


def requeue(turn: Turn, workload: Workload, reason: str, *, restart: bool, delay: bool) -> None:
    """Emits that another attempt follows, after a back-off when ``delay``."""
    wait = turn.policy.backoff(workload.restarts) if delay else turn.policy.backoff(0) * 0
    turn.emit(
        ev.WorkloadRequeued(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            reason=reason,
            restart=restart,
            not_before=turn.now + wait,
            durable=not workload.spec.waiting,
            at=turn.now,
        )
    )
