"""Invariants of the state: that its indexes agree with its dictionaries. For tests; visits everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcray.core.ids import AccountId
from arcray.core.node import Node
from arcray.core.quota import Usage
from arcray.core.workload import Inference, Phase

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["check"]


def check(state: ClusterState) -> None:
    """Asserts it of a state."""
    for node_id, ids in state.on_node.items():
        for workload_id in ids:
            workload = state.workloads[workload_id]
            assert workload.node_id == node_id, workload
            assert workload.allocation is not None, workload
            assert not workload.phase.terminal, workload
    for workload in state.workloads.values():
        queued = (workload.id in state.pending) + (workload.id in state.waiting)
        assert queued == (workload.phase is Phase.PENDING), workload
        holds = workload.node_id is not None and workload.id in state.on_node.get(workload.node_id, {})
        assert holds == (not workload.phase.terminal and workload.phase is not Phase.PENDING), workload
        assert (workload.allocation is not None) == holds, workload
    usage: dict[AccountId, Usage] = {}
    for workload in state.workloads.values():
        if workload.allocation is not None and not isinstance(workload.spec.payload, Inference):
            usage.setdefault(workload.spec.origin.account, Usage()).take(workload.spec.demand)
    assert state.usage == usage
    for node in state.nodes.values():
        _check_books(state, node)
        unfinished = node.drain is not None and node.drain.done_at is None
        assert unfinished == (node.id in state.draining), node.id


def _check_books(state: ClusterState, node: Node) -> None:
    capacity = node.registration.capacity
    held = [w.allocation for w in state.live_on(node.id) if w.allocation is not None]
    free = state.placement.free(node.id)
    assert free.cpu_milli == capacity.cpu_milli - sum(a.cpu_milli for a in held), node.id
    assert free.memory_bytes == capacity.memory_bytes - sum(a.memory_bytes for a in held), node.id
    assert free.disk_bytes == capacity.disk_bytes - sum(a.disk_bytes for a in held), node.id
    shares = [share for a in held for share in a.gpus]
    for gpu in capacity.gpus:
        on_device = [share for share in shares if share.index == gpu.index]
        assert sum(share.memory_bytes for share in on_device) <= gpu.memory_bytes, (node.id, gpu.index)
        assert len(on_device) == 1 or not any(share.whole for share in on_device), (node.id, gpu.index)
