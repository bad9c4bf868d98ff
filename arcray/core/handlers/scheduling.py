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
from arcray.core.ids import WorkloadId
from arcray.core.placement.explain import Explanation
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Workload

__all__ = ["on_schedule", "try_place"]


def on_schedule(turn: Turn, command: Schedule) -> None:
    """Places what fits, by priority and arrival; what a round leaves, the next one goes on with.

    A round ends after ``round_decisions``, placements and refusals alike, after ``round_batch`` placements, or when its
    searches are used up, so it takes only so long, however much waits that cannot be placed.

    A gang is placed as a whole. What fits nowhere may have work of a lower priority ended for it. Only where neither
    helps does a workload go back to a node that refused it of late.
    """
    _ = command
    state, policy = turn.state, turn.policy
    limit = policy.round_decisions + _begin(turn)
    placed = decided = 0
    for workload_id in state.pending.rounds.candidates():
        if placed >= policy.round_batch or decided >= limit or state.searches.used_up:
            break
        decided += _cost(state, workload_id)
        workload = state.workloads[workload_id]
        state.gangs.set_aside(aside=_goes_before_holder(state, workload))
        if workload.spec.gang is not None:
            placed += try_place_gang(turn, state.gangs.of(workload.spec))
        elif try_place(turn, workload):
            placed += 1
        elif state.pending.is_blocked(workload_id) or try_preempt(turn, workload):
            continue  # nobody's work is ended for what may not start
        elif workload.refusals and try_place(turn, workload, back=True):
            placed += 1
    state.gangs.set_aside(aside=False)


def _begin(turn: Turn) -> int:
    """Begins a round, with the pass that it goes on with or a new one; returns decisions beyond its ordinary ones.

    Room that appeared while a pass is under way is first for those that were passed over, but only half of a round is
    for them, or what stands last would never be reached.
    """
    state, policy, rounds = turn.state, turn.policy, turn.state.pending.rounds
    state.needs_round = False
    roomier = state.searches.situation != state.room
    state.searches.begin(policy.preemption_searches, state.room)
    if not rounds.under_way:
        rounds.begin()
        state.searches.begin_pass()
        state.gangs.let_go()  # who comes first in this pass is held nodes back for
    elif roomier:
        rounds.repeat()
        half = (policy.round_decisions + 1) // 2
        return max(0, rounds.look_again(half, lambda workload_id: _cost(state, workload_id)) - half)
    return 0


def _goes_before_holder(state: ClusterState, workload: Workload) -> bool:
    """Returns whether nodes are not held back against a candidate: it came after its turn, or is the holder itself.

    Only by priority: what is as urgent and was there before leaves them too, until the next pass.
    """
    holder = state.gangs.holder
    if holder is None:
        return False
    assert holder.leader is not None, "only a gang that waits as a whole has nodes held back"
    leader = state.workloads[holder.leader]
    return workload is leader or workload.spec.priority < leader.spec.priority


def _cost(state: ClusterState, workload_id: WorkloadId) -> int:
    """Returns how many decisions it takes to place a candidate or not: one for each member of a gang."""
    spec = state.workloads[workload_id].spec
    return 1 if spec.gang is None else len(state.gangs.of(spec).members)


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
