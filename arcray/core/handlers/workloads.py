"""Rules about workloads: submitting, stopping, and what their nodes report."""

from __future__ import annotations

from dataclasses import replace

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.commands import (
    Reply,
    ReportEnd,
    ReportPhase,
    ReportUndelivered,
    StopWorkload,
    Submitted,
    SubmitWorkload,
)
from arcray.core.errors import (
    AlreadyExistsError,
    ConflictError,
    IdempotencyMismatchError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    StaleReportError,
)
from arcray.core.handlers.admission import check_credits
from arcray.core.handlers.attempts import conclude_eviction, finish, leave_to_replacement, requeue, restarts
from arcray.core.handlers.dead_letters import check_replay
from arcray.core.handlers.evictions import evict
from arcray.core.handlers.gangs import check_member, try_place_gang
from arcray.core.handlers.inference import dispatch, follow_refusal
from arcray.core.handlers.nodes import current_node
from arcray.core.handlers.quotas import check_quota
from arcray.core.handlers.reservations import check_taking, take_place
from arcray.core.handlers.scheduling import try_place
from arcray.core.handlers.stopping import stop_order
from arcray.core.ids import WorkloadId
from arcray.core.labels import check_selector
from arcray.core.lifecycle import NODE_PHASES, advance
from arcray.core.policy import ClusterPolicy
from arcray.core.turn import Turn
from arcray.core.workload import Inference, ModelServer, Phase, Workload, WorkloadSpec

__all__ = [
    "as_it_stands",
    "on_report_end",
    "on_report_phase",
    "on_report_undelivered",
    "on_stop_workload",
    "on_submit_workload",
    "stop",
    "stop_for_good",
]


def on_submit_workload(turn: Turn, command: SubmitWorkload) -> Submitted | None:
    """Accepts a workload, and places it at once where nothing waits before it, or where a place is reserved."""
    spec = command.spec
    earlier = _earlier_submission(turn, spec)
    if earlier is not None:
        _check_answer(earlier)
        return _reply(turn, earlier, created=False)
    _check(turn, spec)
    if command.copies is not None:
        _check_copies(turn, spec, command.copies)
    spec = _limited(turn.policy, spec)
    turn.emit(ev.WorkloadSubmitted(spec=spec, at=turn.now))
    if spec.replay_of is not None:
        turn.emit(ev.WorkloadSettled(workload_id=spec.replay_of, replayed_by=spec.id, at=turn.now))
    workload = turn.state.workloads[spec.id]
    if isinstance(spec.payload, Inference):
        dispatch(turn, workload)
    elif spec.reservation_id is not None:
        take_place(turn, workload)
    elif turn.state.pending.ready == 1:
        if spec.gang is None:
            try_place(turn, workload)
        elif turn.state.gangs.of(spec).ready:
            try_place_gang(turn, turn.state.gangs.of(spec))
    return _reply(turn, workload, created=True)


def _earlier_submission(turn: Turn, spec: WorkloadSpec) -> Workload | None:
    known = turn.state.workloads.get(spec.id)
    if known is not None:
        if known.spec.request_digest != spec.request_digest or known.spec.origin != spec.origin:
            raise AlreadyExistsError(f"workload {spec.id} exists", field="id")
        return known
    if not spec.request_id:
        return None
    earlier_id = turn.state.requests.get((spec.origin.account, spec.request_id))
    if earlier_id is None:
        return None
    earlier = turn.state.workloads[earlier_id]
    if earlier.spec.request_digest != spec.request_digest:
        raise IdempotencyMismatchError(
            f"key {spec.request_id!r} belongs to workload {earlier_id}", field="Idempotency-Key"
        )
    return earlier


def _check_answer(earlier: Workload) -> None:
    """Passes what can still be answered as the first submission was.

    Raises:
        ConflictError: its output went, or was to go, to a sender who waited, and is kept nowhere.
    """
    spec, result = earlier.spec, earlier.result
    answered = spec.waiting and isinstance(spec.payload, Inference) and earlier.phase is Phase.SUCCEEDED
    if answered and (result is None or result.output is None):
        raise ConflictError(f"the answer to request {spec.id} was lost; ask it as a new request")


def _check(turn: Turn, spec: WorkloadSpec) -> None:
    _check_queue(turn, spec)
    state = turn.state
    if isinstance(spec.payload, ModelServer) and state.models.get(spec.payload.model.id) != spec.payload.model:
        raise NotFoundError(f"no model {spec.payload.model.id} of that form is registered", field="model")
    if spec.node_id is not None and spec.node_id not in state.nodes:
        raise NotFoundError(f"no node {spec.node_id}", field="nodeId")
    check_selector((*spec.selector, *spec.selector_terms))
    if spec.max_duration_s is not None and spec.max_duration_s <= 0:
        raise InvalidArgumentError("must be above 0", field="maxDurationS")
    if spec.preemptible and isinstance(spec.payload, Inference):
        raise InvalidArgumentError("an inference request is not preempted", field="preemptible")
    if spec.gang is not None:
        check_member(state, turn.policy, spec)
    if spec.reservation_id is not None:
        check_taking(state, spec)
    if spec.replay_of is not None:
        check_replay(turn, spec)
    check_credits(turn, spec)


def _check_copies(turn: Turn, spec: WorkloadSpec, wanted: int) -> None:
    """Refuses what would be one copy too many of its model."""
    assert isinstance(spec.payload, ModelServer), "only models have copies"
    model_id = spec.payload.model.id
    if turn.state.copies.lasting(model_id) >= wanted:
        raise ConflictError(f"model {model_id} has {wanted} copies already", field="replicas")


def _check_queue(turn: Turn, spec: WorkloadSpec) -> None:
    """Refuses what would be one too many of those that wait."""
    state = turn.state
    if isinstance(spec.payload, Inference):
        if len(state.waiting) >= turn.policy.max_waiting:
            raise ResourceExhaustedError(f"{turn.policy.max_waiting} requests are waiting already")
    elif spec.reservation_id is None:
        if len(state.pending) + state.gangs.beside.total() >= turn.policy.max_pending:
            raise ResourceExhaustedError(f"{turn.policy.max_pending} workloads are waiting already")
        check_quota(state, spec)


def _limited(policy: ClusterPolicy, spec: WorkloadSpec) -> WorkloadSpec:
    """Returns what was asked with the longest time that work may run filled in.

    Raises:
        InvalidArgumentError: it asks to run longer than any may.
    """
    if isinstance(spec.payload, Inference | ModelServer):
        return spec  # one is bounded by its timeout, the other is a service and has no end
    longest, asked_s = policy.max_duration, spec.max_duration_s
    if asked_s is None:
        given = policy.default_max_duration or longest
        return spec if given is None else replace(spec, max_duration_s=given.total_seconds())
    if longest is not None and asked_s > longest.total_seconds():
        raise InvalidArgumentError(f"may be {longest.total_seconds():g} at the most", field="maxDurationS")
    return spec


def _reply(turn: Turn, workload: Workload, *, created: bool) -> Submitted | None:
    if workload.spec.waiting:
        turn.awaits = workload.spec.id
        return None
    return Submitted(
        workload_id=workload.spec.id,
        phase=workload.phase,
        node_id=workload.node_id,
        message=workload.message,
        created=created,
        attempt=workload.attempt,
        allocation=workload.allocation,
        placed_at=workload.placed_at,
    )


def as_it_stands(turn: Turn, reply: Reply) -> Reply:
    """Returns a reply about a submission as the workload stands now: what it costs may have ended it already."""
    if not isinstance(reply, Submitted):
        return reply
    workload = turn.state.workloads[reply.workload_id]
    return replace(reply, phase=workload.phase, node_id=workload.node_id, message=workload.message)


def on_stop_workload(turn: Turn, command: StopWorkload) -> None:
    """Ends a workload: at once where nothing runs yet, else by asking its node."""
    workload = turn.state.workloads.get(command.workload_id)
    if workload is None or command.account not in (None, workload.spec.origin.account):
        raise NotFoundError(f"no workload {command.workload_id}", field="id")
    stop_for_good(turn, workload, command.grace_s)


def stop_for_good(turn: Turn, workload: Workload, grace_s: float) -> None:
    """Ends a workload that is not wanted any more, and the copy of a model that was begun to take its place.

    Both are one to whoever wants neither. What an account cannot pay for is ended alone: it may afford the other one.
    """
    if workload.phase.terminal:
        return  # whatever took its place does not belong to it any longer
    replacement = turn.state.copies.replacement_of(workload.id)
    stop(turn, workload, grace_s)
    if replacement is not None:
        stop_for_good(turn, replacement, grace_s)


def stop(turn: Turn, workload: Workload, grace_s: float, reason: str = "") -> None:
    """Ends a workload; one that has ended or is ending stays as it is.

    Args:
        reason: why, where nobody asked for it; the workload's last message.
    """
    if workload.phase.terminal or workload.stop_requested:
        return
    if workload.phase is Phase.STOPPING:  # evicted: asked already, but it will not start again now
        turn.emit(ev.WorkloadStopRequested(workload_id=workload.spec.id, durable=True, at=turn.now, reason=reason))
        return
    order = stop_order(workload, grace_s)
    node = turn.state.nodes[workload.node_id] if workload.node_id is not None else None
    if node is None or isinstance(workload.spec.payload, Inference):
        finish(turn, workload, Phase.STOPPED, reason or "stopped on request")
    else:
        durable = not workload.spec.waiting
        turn.emit(ev.WorkloadStopRequested(workload_id=workload.spec.id, durable=durable, at=turn.now, reason=reason))
    if node is not None:
        turn.order(node, order)


def on_report_phase(turn: Turn, command: ReportPhase) -> None:
    """Takes a live phase that a node reports; hearing the same twice changes nothing."""
    node = current_node(turn, command.node_id, command.epoch)
    workload = _fenced(turn, command.workload_id, command.attempt)
    if command.phase not in NODE_PHASES or command.phase.terminal:
        raise InvalidArgumentError(f"{command.phase} is not a live phase of a node", field="phase")
    if workload.node_id != node.id:
        raise StaleReportError(f"workload {workload.spec.id} is not on node {node.id}", field="nodeId")
    if workload.phase is command.phase:
        return
    advance(workload.phase, command.phase)
    turn.emit(
        ev.WorkloadPhaseChanged(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            phase=command.phase,
            message=command.message,
            ports=command.ports,
            durable=not workload.spec.waiting,
            at=turn.now,
        )
    )


def on_report_end(turn: Turn, command: ReportEnd) -> None:
    """Takes the end of an attempt; hearing the same end twice changes nothing."""
    node = current_node(turn, command.node_id, command.epoch)
    if command.phase not in NODE_PHASES or not command.phase.terminal:
        raise InvalidArgumentError(f"{command.phase} does not end an attempt", field="phase")
    workload = turn.state.workloads.get(command.workload_id)
    if workload is not None and workload.phase.terminal and workload.attempt == command.attempt:
        return
    workload = _fenced(turn, command.workload_id, command.attempt)
    if workload.node_id != node.id:
        raise StaleReportError(f"workload {workload.spec.id} is not on node {node.id}", field="nodeId")
    payload = workload.spec.payload
    if isinstance(payload, Inference) and workload.phase is Phase.PLACED:
        _started(turn, workload)
    _end(turn, workload, command)


def on_report_undelivered(turn: Turn, command: ReportUndelivered) -> None:
    """Has an attempt stopped that its node could not be told to start; its place is free once that has ended."""
    current_node(turn, command.node_id, command.epoch)
    workload = _fenced(turn, command.workload_id, command.attempt)
    evict(turn, workload, Cause.UNDELIVERED, command.message, grace_s=0.0)


def _started(turn: Turn, workload: Workload) -> None:
    """States that a request was being processed, which nodes report by themselves only when it takes long."""
    turn.emit(
        ev.WorkloadPhaseChanged(
            workload_id=workload.spec.id,
            attempt=workload.attempt,
            phase=Phase.RUNNING,
            durable=not workload.spec.waiting,
            at=turn.now,
        )
    )


def _end(turn: Turn, workload: Workload, report: ReportEnd) -> None:
    reason = report.message or f"attempt {workload.attempt} {report.phase}"
    if workload.stop_requested:
        message = workload.stop_reason or report.message or "stopped on request"
        finish(turn, workload, Phase.STOPPED, message, report.result)
    elif workload.eviction is not None:
        refused = report.refused and not report.begun
        conclude_eviction(turn, workload, report.phase, report.result, report.message, refused=refused)
    elif leave_to_replacement(turn, workload, reason, report.result):
        return
    elif report.refused:
        _refused(turn, workload, report)
    elif restarts(turn, workload, report.phase):
        requeue(turn, workload, reason, restart=True, delay=True, exit_code=report.result.exit_code)
    else:
        finish(turn, workload, report.phase, report.message, report.result)


def _refused(turn: Turn, workload: Workload, report: ReportEnd) -> None:
    """Has work that its node would not begin wait for another attempt: for a time, or if it is a request for a slot.

    What the node last said of the slots of a model is not so, or no longer, and it says better soon.
    """
    reason, payload = report.message or "its node refused it", workload.spec.payload
    if not isinstance(payload, Inference):
        requeue(turn, workload, reason, restart=False, delay=True, refused=True, begun=report.begun)
        return
    turn.state.needs_models.add(report.node_id)
    requeue(turn, workload, reason, restart=False, delay=False, refused=True)
    turn.state.slots_freed.pop(payload.model_id, None)  # the slot that it was refused: none for others either
    follow_refusal(turn, workload, reason)


def _fenced(turn: Turn, workload_id: WorkloadId, attempt: int) -> Workload:
    workload = turn.state.workloads.get(workload_id)
    if workload is None:
        raise NotFoundError(f"no workload {workload_id}", field="workloadId")
    if workload.attempt != attempt:
        raise StaleReportError(
            f"workload {workload_id} is at attempt {workload.attempt}, not {attempt}", field="attempt"
        )
    if workload.phase.terminal or workload.phase is Phase.PENDING:
        raise ConflictError(f"workload {workload_id} is {workload.phase}", field="phase")
    return workload
