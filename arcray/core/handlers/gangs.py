"""Rules about gangs: joining one, starting one, and what a member's end means for it.

Nothing of a gang starts before all members are there and all fit at the same time; then all start in one turn. A gang
holds nothing while it waits, so gangs cannot block each other. A large one would wait for ever behind small work that
keeps taking what becomes free, so one that has waited ``gang_patience`` has nodes *held back*: work behind it in the
queue is placed only on nodes that could not take any member even if they were empty, nor all members, where they are
packed. That is done for one gang at a time, the first in order; for at most ``gang_hold`` at a stretch, because what
runs there may never end; and not for one that would not even fit on empty nodes. The wait counts from the arrival of
the last member, also after a restart.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from arcray.core.asked import placement_request
from arcray.core.errors import ConflictError, InvalidArgumentError, ResourceExhaustedError
from arcray.core.gang import Layout
from arcray.core.gang_queue import NO_NODES, GangState, gang_key
from arcray.core.handlers.empty_nodes import empty_engine, usable_nodes
from arcray.core.handlers.quotas import excesses
from arcray.core.handlers.starting import begin
from arcray.core.ids import NodeId
from arcray.core.placement.request import Placement, PlacementRequest
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.policy import ClusterPolicy
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, RestartRule, Workload, WorkloadSpec

__all__ = ["check_member", "fits_when_empty", "gang_restarts", "requests_of", "try_place_gang"]

_ID_LIMIT: Final = 128
_NO_TIME: Final = timedelta()
_LOOK_AGAIN: Final = timedelta(seconds=5)  # at the nodes, which takes 50 ms at 5,000 of them


def check_member(state: ClusterState, policy: ClusterPolicy, spec: WorkloadSpec) -> None:
    """Refuses a member that its gang cannot take.

    Raises:
        InvalidArgumentError, ConflictError, ResourceExhaustedError: names the field.
    """
    gang = spec.gang
    assert gang is not None
    if not 1 <= len(gang.id) <= _ID_LIMIT:
        raise InvalidArgumentError(f"must have 1 to {_ID_LIMIT} characters", field="gang.id")
    if gang.size < 1:
        raise InvalidArgumentError("must be at least 1", field="gang.size")
    most = min(policy.max_gang_size, policy.max_pending)  # all of them wait until the last is there
    if gang.size > most:
        raise ResourceExhaustedError(f"a gang has at most {most} members", field="gang.size")
    if isinstance(spec.payload, Inference):
        raise InvalidArgumentError("an inference request starts alone", field="gang")
    if spec.preemptible:
        raise InvalidArgumentError("a member of a gang is not preempted alone", field="preemptible")
    if spec.reservation_id is not None:
        raise InvalidArgumentError("a gang takes no reservation", field="reservationId")
    if spec.restart.rule is RestartRule.ALWAYS:
        raise InvalidArgumentError("a gang cannot start a member again that has ended well", field="restartPolicy")
    known = state.gangs.get(gang_key(spec.origin.account, gang))
    if known is not None:
        _check_against(state, known, spec)


def _check_against(state: ClusterState, known: GangState, spec: WorkloadSpec) -> None:
    assert spec.gang is not None
    if known.complete_at is not None or known.bereft:
        raise ConflictError(f"gang {spec.gang.id} has all of its {known.gang.size} members", field="gang.id")
    first = state.workloads[next(iter(known.members))].spec
    wanted = {
        "gang.size": (spec.gang.size, known.gang.size),
        "gang.layout": (spec.gang.layout, known.gang.layout),
        "priority": (spec.priority, first.priority),
        "restartPolicy": (spec.restart, first.restart),
    }
    for field, (given, had) in wanted.items():
        if given != had:
            raise ConflictError(f"the first member of gang {spec.gang.id} said otherwise", field=field)


def try_place_gang(turn: Turn, gang: GangState) -> int:
    """Starts all members of a gang that waits, or none; returns how many started."""
    state = turn.state
    assert gang.leader is not None
    if excesses(state, state.workloads[gang.leader]):
        state.pending.block(gang.leader)
        return 0
    requests = requests_of(state, gang)
    held = state.gangs.held
    placements = _place_beside_refusals(state, gang, requests)
    if not isinstance(placements, Shortfall) and any(placement.node_id in held for placement in placements):
        placements = _place_beside_refusals(state, gang, [replace(request, avoid=held) for request in requests])
    if isinstance(placements, Shortfall):
        if state.gangs.holder is None:
            _hold_back(turn, gang)
        return 0
    for workload_id, placement in zip(list(gang.members), placements, strict=True):
        begin(turn, state.workloads[workload_id], placement)
    return len(placements)


def _place_beside_refusals(
    state: ClusterState, gang: GangState, requests: list[PlacementRequest]
) -> tuple[Placement, ...] | Shortfall:
    """Places the members on nodes that have refused none of them of late, because another would fare no better there.

    Where that cannot be each may go to nodes that have not refused itself, and where that cannot be either to any.
    """
    refused_by = [state.workloads[workload_id].refused_by for workload_id in gang.members]
    by_all = frozenset[NodeId]().union(*refused_by)
    for avoid in ([by_all] * len(requests), refused_by) if by_all else ():
        wary = [replace(request, avoid=request.avoid | nodes) for request, nodes in zip(requests, avoid, strict=True)]
        placements = place_together(state.placement, wary, gang.gang.layout)
        if not isinstance(placements, Shortfall):
            return placements
    return place_together(state.placement, requests, gang.gang.layout)


def requests_of(state: ClusterState, gang: GangState) -> list[PlacementRequest]:
    """Returns what the members ask of placement, in the order in which they came."""
    return [placement_request(state.workloads[workload_id].spec) for workload_id in gang.members]


def gang_restarts(turn: Turn, workload: Workload, phase: Phase, *, rested: bool, lost: bool) -> bool:
    """Returns whether a gang starts again after an attempt of a member ended in ``phase``.

    Before all members ran, a failure is one of the start: it is repeated ``gang_starts`` times, whatever the restart
    policy. After that the policy decides. A gang of which a member has ended for good cannot start as a whole.

    Args:
        rested: the attempt ran long enough for restarts to be forgotten.
        lost: its node cannot be asked how it ended.
    """
    gang = turn.state.gangs.of(workload.spec)
    if workload.stop_requested or gang.bereft or phase is not Phase.FAILED:
        return False
    members = [turn.state.workloads[workload_id] for workload_id in gang.members]
    restarts = 0 if rested else max(member.streak for member in members)
    if any(member.phase is not Phase.RUNNING for member in members) and restarts < turn.policy.gang_starts:
        return True
    policy = workload.spec.restart
    wanted = policy.rule is RestartRule.ON_FAILURE or (policy.rule is RestartRule.ON_LOSS and lost)
    return wanted and (policy.max_restarts is None or restarts < policy.max_restarts)


def fits_when_empty(state: ClusterState, gang: GangState) -> Shortfall | None:
    """Returns None when the members would fit if nothing else ran on the nodes, else what is missing even then.

    It is worked out once until a node changes: 50 ms at 1,000 nodes, whichever of the members is asked about.
    """
    known = gang.when_empty
    if known is None or known[0] != state.nodes_changed:
        known = gang.when_empty = state.nodes_changed, _short_when_empty(state, gang)
    return known[1]


def _short_when_empty(state: ClusterState, gang: GangState) -> Shortfall | None:
    requests, layout = requests_of(state, gang), gang.gang.layout
    alike = len(set(requests)) == 1
    if alike and layout is not Layout.PACK and len(usable_nodes(state, requests, layout)) >= len(requests):
        return None
    answer = place_together(empty_engine(state, requests, layout), requests, layout)
    return answer if isinstance(answer, Shortfall) else None


def _hold_back(turn: Turn, gang: GangState) -> None:
    """Holds nodes back for a gang that does not fit now, when it is its time."""
    state, policy = turn.state, turn.policy
    assert gang.complete_at is not None
    aged = turn.now - gang.complete_at - policy.gang_patience
    if aged < _NO_TIME:
        return
    turns = aged // policy.gang_hold
    if turns % 2:
        return  # the others' time
    again = turn.now if gang.looked_at is None else gang.looked_at + _LOOK_AGAIN
    if gang.seen != state.nodes_changed and again <= turn.now:
        fits = fits_when_empty(state, gang) is None
        usable = usable_nodes(state, requests_of(state, gang), gang.gang.layout) if fits else NO_NODES
        if usable != gang.usable:  # an equal set is kept, because refused requests are remembered with it
            gang.usable = usable
            gang.uses_all = all(node.id in usable or not node.schedulable for node in state.nodes.values())
        gang.seen, gang.looked_at = state.nodes_changed, turn.now
    if gang.usable:
        until = gang.complete_at + policy.gang_patience + (turns + 1) * policy.gang_hold
        # What has changed since the last look may be that it does not fit any more.
        state.gangs.hold_back(gang, until if gang.seen == state.nodes_changed else min(until, again))
