"""Rules about the start of an attempt: the fact that it holds its place, and the order to its node."""

from __future__ import annotations

from arcray.core import events as ev
from arcray.core.errors import UnsupportedError
from arcray.core.lowering import lower
from arcray.core.node import Node
from arcray.core.orders import StartWorkload
from arcray.core.placement.request import Placement
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Workload

__all__ = ["begin", "counted_from", "next_attempt", "start_order"]


def begin(turn: Turn, workload: Workload, placement: Placement) -> None:
    """Begins an attempt of a pending workload at a place that is free."""
    node = turn.state.nodes[placement.node_id]
    turn.emit(
        ev.WorkloadPlaced(
            workload_id=workload.spec.id,
            attempt=next_attempt(turn, workload),
            node_id=node.id,
            allocation=placement.allocation,
            durable=not workload.spec.waiting,
            at=turn.now,
        )
    )
    turn.order(node, start_order(workload, node))


def next_attempt(turn: Turn, workload: Workload) -> int:
    """Returns the number of the attempt that begins now: one that no node has ever been given for this workload."""
    return max(workload.attempt, counted_from(turn, workload)) + 1


def counted_from(turn: Turn, workload: Workload) -> int:
    """Returns the number after which attempts of a workload are counted."""
    return turn.state.attempts_from if workload.spec.waiting else 0


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
        created_s=spec.created_at.timestamp(),
    )
