"""Invariants of the state: what is true after every fact.

Every live workload is in exactly one queue (of pending work, its gang's, of a model's slots), or has a place kept for
it, or holds an allocation on an attached node. The placement engine's books equal the sum of those allocations, of what
is kept for preemptors and of what is left of reservations; where a node came back smaller that may be more than it has,
but not because of a reservation. An account's usage is the same sum of its own. A terminal workload holds nothing. The
books of the accounts and the keys agree with themselves.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from arcray.core.ids import AccountId
from arcray.core.node import Node
from arcray.core.quota import Usage
from arcray.core.resources import GpuShare
from arcray.core.workload import Inference, ModelServer, Phase

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["check_invariants"]


def check_invariants(state: ClusterState) -> None:
    """Asserts that the indexes agree with the dictionaries. For tests; visits everything."""
    for node_id, ids in state.on_node.items():
        for workload_id in ids:
            workload = state.workloads[workload_id]
            assert workload.node_id == node_id, workload
            assert workload.allocation is not None, workload
            assert not workload.phase.terminal, workload
    for workload in state.workloads.values():
        queued = (workload.id in state.waiting) + (workload.id in state.claims)
        if workload.spec.gang is None:
            queued += workload.id in state.pending
        elif not workload.phase.terminal:
            queued += state.gangs.of(workload.spec).waits(workload.id)
        assert queued == (workload.phase is Phase.PENDING), workload
        assert (workload.claim is not None) == (workload.id in state.claims), workload
        holds = workload.node_id is not None and workload.id in state.on_node.get(workload.node_id, {})
        assert holds == (not workload.phase.terminal and workload.phase is not Phase.PENDING), workload
        assert (workload.allocation is not None) == holds, workload
        served = holds and isinstance(workload.spec.payload, Inference)
        assert (workload.id in state.dispatched) == served, workload
    for workload_id in state.refused_until:
        assert not state.workloads[workload_id].phase.terminal, workload_id
    copies = [
        w.id for w in state.workloads.values() if isinstance(w.spec.payload, ModelServer) and not w.phase.terminal
    ]
    assert sorted(state.copies) == sorted(copies)
    for workload_id in copies:
        copy = state.workloads[workload_id]
        replaced = None if copy.stop_requested else state.copies.replaced_by(copy)
        assert replaced is None or replaced.allocation is not None, "two would go on"
    members = (workload_id for gang in state.gangs for workload_id in gang.members if gang.waits(workload_id))
    assert state.gangs.waiting == sum(1 for _ in members)
    for gang in state.gangs:
        assert (gang.leader is not None) == gang.ready, gang.key
        assert gang.leader is None or gang.leader in state.pending, gang.key
    _check_usage(state)
    for node in state.nodes.values():
        _check_books(state, node)
        unfinished = node.drain is not None and node.drain.done_at is None
        assert unfinished == (node.id in state.draining), node.id
    state.books.check_invariants(state.workloads.values())
    state.keys.check_invariants()


def _check_usage(state: ClusterState) -> None:
    usage: dict[AccountId, Usage] = {}
    waiting: Counter[AccountId] = Counter()
    for workload in state.workloads.values():
        account, spec = workload.spec.origin.account, workload.spec
        if isinstance(spec.payload, Inference):
            continue
        if workload.allocation is not None or workload.claim is not None:
            usage.setdefault(account, Usage()).take(spec.demand)
        elif workload.phase is Phase.PENDING:
            waiting[account] += 1
    for node_id in state.nodes:
        for reservation in state.reservations.on_node(node_id):
            for part in reservation.slices:
                if part.node_id == node_id:
                    usage.setdefault(reservation.account, Usage()).take(part.allocation)
    assert state.usage == {account: held for account, held in usage.items() if held != Usage()}
    for account in {*waiting, *(workload.spec.origin.account for workload in state.workloads.values())}:
        assert state.waiting_of(account) == waiting[account], account


def _check_books(state: ClusterState, node: Node) -> None:
    capacity = node.registration.capacity
    held = [w.allocation for w in state.live_on(node.id) if w.allocation is not None]
    held += state.claims.kept_on(node.id) + state.reservations.held_on(node.id)
    free = state.placement.free(node.id)
    assert free.cpu_milli == capacity.cpu_milli - sum(a.cpu_milli for a in held), node.id
    assert free.memory_bytes == capacity.memory_bytes - sum(a.memory_bytes for a in held), node.id
    assert free.disk_bytes == capacity.disk_bytes - sum(a.disk_bytes for a in held), node.id
    # A node that came back smaller says itself what runs there. That stays; nothing else is started beside it.
    shares = [share for a in held for share in a.gpus]
    memory = {gpu.index: gpu.memory_bytes for gpu in capacity.gpus}
    over = {index for index in {share.index for share in shares} if _is_over(index, memory.get(index, -1), shares)}
    assert free.overcommitted_gpus == over, node.id
    assert free.gpus == -len(over) if over else free.gpus >= 0, node.id
    promised = {share.index for a in state.reservations.held_on(node.id) for share in a.gpus}
    assert not promised & over, f"more is reserved on {node.id} than it has"


def _is_over(index: int, memory_bytes: int, shares: list[GpuShare]) -> bool:
    own = [share for share in shares if share.index == index]
    shared = [share for share in own if not share.whole]
    return sum(share.memory_bytes for share in shared) > memory_bytes or (len(own) > len(shared) and len(own) > 1)
