"""Rules about placement: when work gets its place, and what its node is told."""

from __future__ import annotations

from dataclasses import replace

from arcray.core.asked import placement_request
from arcray.core.commands import Schedule
from arcray.core.gang_queue import NO_NODES
from arcray.core.handlers.gangs import try_place_gang
from arcray.core.handlers.preemption import try_preempt
from arcray.core.handlers.quotas import excesses
from arcray.core.handlers.starting import begin
from arcray.core.placement.explain import Explanation
from arcray.core.turn import Turn
from arcray.core.workload import Workload

__all__ = ["on_schedule", "try_place"]


def on_schedule(turn: Turn, command: Schedule) -> None:
    """Places what fits, by priority and arrival; after ``round_batch`` placements the rest stays for the next round.

    A gang is placed as a whole. What fits nowhere may have work of a lower priority ended for it. Only where neither
    helps does a workload go back to a node that refused it of late.
    """
    _ = command
    state = turn.state
    state.needs_round = False
    state.gangs.let_go()  # who comes first in this round is held nodes back for
    state.searches.begin(turn.policy.preemption_searches, state.room)
    placed = 0
    for workload_id in state.pending.heads():
        if placed >= turn.policy.round_batch:
            state.needs_round = True
            break
        workload = state.workloads[workload_id]
        if workload.spec.gang is not None:
            placed += try_place_gang(turn, state.gangs.of(workload.spec))
        elif try_place(turn, workload):
            placed += 1
        elif state.pending.is_blocked(workload_id) or try_preempt(turn, workload):
            continue  # nobody's work is ended for what may not start
        elif workload.refusals and not state.searches.waits(workload_id) and try_place(turn, workload, back=True):
            placed += 1
    if state.searches.end():
        state.needs_round = True


def try_place(turn: Turn, workload: Workload, *, back: bool = False) -> bool:
    """Begins an attempt of a pending workload; returns False when nothing can take it, or its account may not, now.

    Args:
        back: also on a node that refused it of late.
    """
    state = turn.state
    if excesses(state, workload):
        state.pending.block(workload.spec.id)
        return False
    request = placement_request(workload.spec)
    placement = state.placement.place(request)
    refused_by = NO_NODES if back else workload.refused_by
    if not isinstance(placement, Explanation) and placement.node_id in refused_by:
        request = replace(request, avoid=refused_by)
        placement = state.placement.place(request)
    held = state.gangs.held
    if not isinstance(placement, Explanation) and placement.node_id in held:
        if state.gangs.held_all:
            return False
        # 2 ms at 5,000 nodes; a demand that is refused is remembered, so that this is paid once by equal ones.
        placement = state.placement.place(replace(request, avoid=held | refused_by))
    if isinstance(placement, Explanation):
        return False
    begin(turn, workload, placement)
    return True
