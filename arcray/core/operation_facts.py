"""How the facts of quotas, drains, labels and dead letters change the state.

Called by ``ClusterState`` and its kin alone. Like all of ``apply`` these never refuse and never decide.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from heapq import heapify, heappush
from typing import TYPE_CHECKING, TypeAlias, assert_never

from arcray.core import events as ev
from arcray.core.ids import WorkloadId
from arcray.core.quota import Usage
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Inference, Workload

if TYPE_CHECKING:
    from arcray.core.ids import AccountId
    from arcray.core.state import ClusterState

__all__ = [
    "OperationFact",
    "apply_operation",
    "give_back",
    "look_at_replaced",
    "look_for_overtime",
    "take",
    "watch_overtime",
]

OperationFact: TypeAlias = (
    ev.NodeSchedulingChanged | ev.NodeDrainChanged | ev.NodeRelabelled | ev.QuotaChanged | ev.WorkloadSettled
)


def apply_operation(state: ClusterState, fact: OperationFact) -> None:
    """Changes the state as the fact says."""
    match fact:
        case ev.NodeSchedulingChanged():
            state.nodes[fact.node_id].cordoned = fact.cordoned
            state.nodes[fact.node_id].cordoned_gpus = fact.cordoned_gpus
            state.node_changed(fact.node_id)
        case ev.NodeDrainChanged():
            _drain_changed(state, fact)
        case ev.NodeRelabelled():
            state.nodes[fact.node_id].relabelled = fact.labels
            state.node_changed(fact.node_id)
        case ev.QuotaChanged():
            if fact.quota is None:
                state.quotas.pop(fact.account, None)
            else:
                state.quotas[fact.account] = fact.quota
            if state.pending.unblock(fact.account):
                state.needs_round = True
        case ev.WorkloadSettled():
            workload = state.workloads[fact.workload_id]
            workload.replayed_by = fact.replayed_by
            workload.discarded = fact.replayed_by is None
            state.settling.add(fact.workload_id)
        case _:
            assert_never(fact)


def _drain_changed(state: ClusterState, fact: ev.NodeDrainChanged) -> None:
    node = state.nodes[fact.node_id]
    node.drain = fact.drain
    if fact.drain is not None and fact.drain.done_at is None:
        state.draining[node.id] = state.drains_to_check[node.id] = None
    else:
        state.draining.pop(node.id, None)
        state.drains_to_check.pop(node.id, None)
    state.node_changed(node.id)


def take(state: ClusterState, account: AccountId, held: Demand | Allocation) -> None:
    """Takes note that an account holds more: what a workload asked for, or a slice without a workload."""
    if not _counts(held):
        return
    usage = state.usage.get(account)
    if usage is None:
        usage = state.usage[account] = Usage()
    usage.take(held)


def give_back(state: ClusterState, account: AccountId, held: Demand | Allocation) -> None:
    """Takes note that an account holds that no longer, which may be what others of its work waited for."""
    if not _counts(held):
        return
    usage = state.usage[account]
    usage.take(held, -1)
    if usage == Usage():
        del state.usage[account]
    if state.pending.unblock(account):
        state.needs_round = True


def _counts(held: Demand | Allocation) -> bool:
    """Returns whether usage has any of it: of a slice nothing may be left, or a piece of a disk, which no quota has."""
    return isinstance(held, Demand) or bool(held.cpu_milli or held.memory_bytes or held.gpus)


def watch_overtime(
    state: ClusterState, workload: Workload, started_at: datetime, *, after: datetime | None = None
) -> None:
    """Has running work looked at once it has run for too long; requests are bounded by their own timeout.

    Args:
        after: it is not looked at within the grace that begins then.
    """
    if workload.spec.max_duration_s is not None and not isinstance(workload.spec.payload, Inference):
        ends_at = started_at + timedelta(seconds=workload.spec.max_duration_s)
        look_for_overtime(state, workload, ends_at if after is None else max(ends_at, after))


def look_for_overtime(state: ClusterState, workload: Workload, ends_at: datetime) -> None:
    """Has an attempt looked at, some grace after it should have ended; forgets those that have."""
    if len(state.overtime) >= state.overtime_limit:
        state.overtime = [due for due in state.overtime if _may_run_too_long(state, due)]
        heapify(state.overtime)
        state.overtime_limit = max(state.overtime_limit, 2 * len(state.overtime))
    heappush(state.overtime, (ends_at + state.policy.overtime_grace, workload.spec.id, workload.attempt))


def _may_run_too_long(state: ClusterState, due: tuple[datetime, WorkloadId, int]) -> bool:
    _, workload_id, attempt = due
    workload = state.workloads.get(workload_id)
    return workload is not None and workload.attempt == attempt and not workload.phase.terminal


def look_at_replaced(state: ClusterState, replacement: Workload) -> None:
    """Has the drain looked at whose copy of a model another one is to replace."""
    old = state.copies.replaced_by(replacement)
    if old is not None and old.node_id in state.draining and old.node_id is not None:
        state.drains_to_check[old.node_id] = None
