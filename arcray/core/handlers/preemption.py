"""Rules about preemption: ending work of a lower priority for work that fits nowhere.

Only a workload that allows it is preempted, only by one of a strictly higher priority, and only when the demand
certainly fits afterwards. The place is kept for the preemptor from the first moment on: what is free of it now at once,
what a victim holds as soon as its node has reported its end, for which it is waited only so long: a node may be alive
and unable to end what it runs. What it holds stays booked for it; the preemptor waits for any place again, and may have
other work ended. Nothing is ended on a node that refused the preemptor of late while something can be elsewhere. A
victim starts again later without that counting as a restart. What was itself preempted preempts nobody, so one
preemption never leads to another.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from arcray.core import events as ev
from arcray.core.asked import placement_request
from arcray.core.handlers.stopping import stop_order
from arcray.core.placement.explain import Explanation
from arcray.core.placement.preemption import Preemption
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Workload, WorkloadSpec

__all__ = ["try_preempt", "would_preempt"]


def try_preempt(turn: Turn, workload: Workload) -> bool:
    """Asks for the end of what stands in the way of a pending workload; returns False when nothing would help."""
    state = turn.state
    if not _may_preempt(state, workload) or not state.searches.take(workload.id):
        return False
    found = _search(state, workload, turn.now)
    if found is None:
        if state.reclaimable.unfinished:
            state.searches.not_finished(workload.id)
            state.pending.rounds.repeat()
        return False
    node = state.nodes[found.node_id]
    for victim_id in found.victims:
        victim = state.workloads[victim_id]
        turn.emit(
            ev.WorkloadPreempted(
                workload_id=victim_id,
                attempt=victim.attempt,
                by=workload.id,
                reason=f"preempted for {_named(workload.spec, victim.spec)}",
                at=turn.now,
            )
        )
        grace_s = turn.policy.preemption_grace.total_seconds()
        turn.order(node, stop_order(victim, grace_s))
    turn.emit(
        ev.PlaceClaimed(
            workload_id=workload.id,
            node_id=found.node_id,
            allocation=found.allocation,
            victims=found.victims,
            until=turn.now + turn.policy.preemption_grace + turn.policy.preemption_patience,
            at=turn.now,
        )
    )
    return True


def would_preempt(state: ClusterState, workload: Workload, now: datetime) -> Preemption | None:
    """Returns what would be ended for a pending workload that fits nowhere; None when nothing would."""
    if not _may_preempt(state, workload):
        return None
    request = placement_request(workload.spec)
    if not isinstance(state.placement.place(replace(request, avoid=workload.refused_by)), Explanation):
        return None
    return _search(state, workload, now)


def _may_preempt(state: ClusterState, workload: Workload) -> bool:
    return workload.may_preempt and state.reclaimable.any_below(workload.spec.priority)


def _search(state: ClusterState, workload: Workload, now: datetime) -> Preemption | None:
    refused_by, held = workload.refused_by, state.gangs.held
    request = placement_request(workload.spec)
    if held:
        request = replace(request, avoid=held)
    priority, now_s = workload.spec.priority, now.timestamp()
    if refused_by:
        wary = replace(request, avoid=held | refused_by)
        found = state.reclaimable.choose(state.placement, wary, priority, now_s)
        if found is not None or not isinstance(state.placement.place(request), Explanation):
            return found  # rather back to where there is room than that work is ended there
    return state.reclaimable.choose(state.placement, request, priority, now_s)


def _named(preemptor: WorkloadSpec, victim: WorkloadSpec) -> str:
    """Returns for whom it was, as the account of the victim may know: what others run is theirs alone."""
    if preemptor.origin.account != victim.origin.account:
        return "work of a higher priority"
    return f"{preemptor.priority.name.lower()} workload {preemptor.id}"
