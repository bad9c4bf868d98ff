"""Rules about inference requests: routing to a slot, waiting for one, giving up.

A request takes a slot of (node, model) from dispatch to its end; the timeout is the ceiling. One that finds no slot
waits its patience out, and is dispatched as soon as a slot is free. One that is refused for longer than its patience is
rejected, for its nodes may never mean what they say of their slots. After a restart of the scheduler, patience does not
run out before nodes have had time to say what they answer for.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from arcray.core import events as ev
from arcray.core.handlers.attempts import finish
from arcray.core.handlers.starting import counted_from, next_attempt
from arcray.core.handlers.stopping import stop_order
from arcray.core.ids import ModelId
from arcray.core.orders import RunInference
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Allocation
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, Workload

__all__ = ["dispatch", "dispatch_waiting", "expire_inference", "follow_refusal", "run_order"]

_SLOT: Final = Allocation()  # a slot is booked in the routing index; it takes nothing else of the node


def dispatch(turn: Turn, workload: Workload) -> bool:
    """Gives a waiting request the best free slot; returns False when there is none."""
    payload = workload.spec.payload
    assert isinstance(payload, Inference)
    node_id = turn.state.routing.route(
        payload.model_id, payload.geohash, turn.now.timestamp(), geozone=payload.requester_geozone
    )
    if node_id is None:
        return False
    turn.emit(
        ev.WorkloadPlaced(
            workload_id=workload.spec.id,
            attempt=next_attempt(turn, workload),
            node_id=node_id,
            allocation=_SLOT,
            durable=not workload.spec.waiting,
            at=turn.now,
        )
    )
    turn.order(turn.state.nodes[node_id], run_order(workload, turn.policy))
    return True


def run_order(workload: Workload, policy: ClusterPolicy) -> RunInference:
    """Returns the order that runs the present attempt of a dispatched request."""
    payload = workload.spec.payload
    assert isinstance(payload, Inference)
    return RunInference(
        workload_id=workload.spec.id,
        attempt=workload.attempt,
        model_id=payload.model_id,
        input=payload.input,
        context_window_tokens=payload.context_window_tokens,
        timeout_s=policy.inference_timeout.total_seconds(),
        created_s=workload.spec.created_at.timestamp(),
    )


def dispatch_waiting(turn: Turn) -> None:
    """Dispatches to every slot that became free in this turn."""
    freed = turn.state.slots_freed
    while freed:
        model_id, _ = freed.popitem()
        _drain(turn, model_id)


def _drain(turn: Turn, model_id: ModelId) -> None:
    while (workload_id := turn.state.waiting.first(model_id)) is not None:
        if not dispatch(turn, turn.state.workloads[workload_id]):
            return


def follow_refusal(turn: Turn, workload: Workload, reason: str) -> None:
    """Decides what follows for a request that waits again because its node has refused it.

    By all that is known here the node has the slot until it says better, so a request that was tried a few times goes
    round no further: it waits until something changes, or for its patience. Refused even then, it is rejected.

    Args:
        reason: why its node refused it.
    """
    payload, policy = workload.spec.payload, turn.policy
    assert isinstance(payload, Inference)
    tried = workload.attempt - counted_from(turn, workload)
    if tried < policy.inference_attempts and dispatch(turn, workload):
        return
    if turn.now >= turn.state.refused_until[workload.spec.id] and not _recovering(turn):
        since = f"for longer than {policy.routing_patience.total_seconds():g} s"
        message = f"model {payload.model_id}: nodes have refused it {since}, the last one because: {reason}"
        finish(turn, workload, Phase.REJECTED, message)


def expire_inference(turn: Turn) -> None:
    """Rejects requests whose patience has ended, and fails those that take too long on their node."""
    state = turn.state
    recovering = _recovering(turn)
    for workload_id in state.waiting.expired(turn.now):
        workload = state.workloads[workload_id]
        if dispatch(turn, workload):
            continue
        if recovering:
            state.waiting.defer(workload_id, turn.now + turn.policy.routing_patience)
            continue
        payload = workload.spec.payload
        assert isinstance(payload, Inference)
        why = state.routing.explain(payload.model_id, turn.now.timestamp()).sentence()
        finish(turn, workload, Phase.REJECTED, f"model {payload.model_id}: {why}")
    while (due := state.next_late()) is not None and due <= turn.now:
        late = state.workloads[next(iter(state.dispatched))]
        assert late.node_id is not None, "it is on a node"
        turn.order(state.nodes[late.node_id], stop_order(late, 0.0))
        finish(turn, late, Phase.FAILED, f"no answer within {turn.policy.inference_timeout.total_seconds():g} s")


def _recovering(turn: Turn) -> bool:
    """Returns whether a node that was there before a restart may yet say that it answers for a model.

    Rows do not hold that and nodes say it as soon as they find the new scheduler, which may take longer than a request
    is patient. A node that has not said it within the term after which a silent one is unhealthy is waited for no more.
    """
    state = turn.state
    if state.restored_at is None:
        return False
    for node_id in state.needs_models:
        node = state.nodes[node_id]
        term = timedelta(seconds=node.registration.lease.unhealthy_after_s)
        if node.schedulable and node.registration.capabilities.inference and turn.now < state.restored_at + term:
            return True
    return False
