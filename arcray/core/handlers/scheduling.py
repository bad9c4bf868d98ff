"""Rules about placement: when work gets its place, and what its node is told."""

from __future__ import annotations

from arcray.core import events as ev
from arcray.core.asked import placement_request
from arcray.core.commands import Schedule
from arcray.core.errors import UnsupportedError
from arcray.core.handlers.quotas import excesses
from arcray.core.lowering import lower
from arcray.core.node import Node
from arcray.core.orders import StartWorkload
from arcray.core.placement.explain import Explanation
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Workload

__all__ = ["on_schedule", "start_order", "try_place"]


def on_schedule(turn: Turn, command: Schedule) -> None:
    """Places what fits, by priority and arrival; after ``round_batch`` placements the rest stays for the next round."""
    _ = command
    state = turn.state
    state.needs_round = False
    placed = 0
    for workload_id in state.pending.heads():
        if placed == turn.policy.round_batch:
            state.needs_round = True
            return
        placed += try_place(turn, state.workloads[workload_id])


def try_place(turn: Turn, workload: Workload) -> bool:
    """Begins an attempt of a pending workload; returns False when nothing can take it, or its account may not, now."""
    state = turn.state
    spec = workload.spec
    if excesses(state, workload):
        state.pending.block(spec.id)
        return False
    placement = state.placement.place(placement_request(spec))
    if isinstance(placement, Explanation):
        return False
    node = state.nodes[placement.node_id]
    turn.emit(
        ev.WorkloadPlaced(
            workload_id=spec.id,
            attempt=workload.attempt + 1,
            node_id=node.id,
            allocation=placement.allocation,
            durable=not spec.waiting,
            at=turn.now,
        )
    )
    turn.order(node, start_order(workload, node))
    return True


def start_order(workload: Workload, node: Node) -> StartWorkload:
    """Returns the order that starts the present attempt of a placed workload."""
    spec = workload.spec
    assert workload.allocation is not None
    try:
        payload = lower(spec.payload, node.registration.capabilities)
    except UnsupportedError as error:  # the features filter and the lowering table are the same table
        raise AssertionError("placement chose a node that cannot run the payload") from error
    assert not isinstance(payload, Inference)
    return StartWorkload(
        workload_id=spec.id,
        attempt=workload.attempt,
        payload=payload,
        demand=spec.demand,
        allocation=workload.allocation,
        owner=spec.origin.account,
        name=spec.name,
        max_duration_s=spec.max_duration_s,
    )
