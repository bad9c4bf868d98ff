"""Outlook: what a workload waits for, who is ahead of it, and when it may start. Reads; decides nothing.

Estimates go by history and say so: when the next of such work ends, given how long such work takes; where none runs,
how often such work starts. Without history there is no estimate, because a guess would be believed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from arcray.core.asked import placement_request, shape_of
from arcray.core.explanation import StartEstimate, WaitsFor, WorkloadExplanation
from arcray.core.handlers.gangs import requests_of
from arcray.core.handlers.quotas import excesses
from arcray.core.ids import AccountId
from arcray.core.pending import NOBODY_AHEAD, Ahead
from arcray.core.placement.explain import Explanation
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.quota import Excess
from arcray.core.state import ClusterState
from arcray.core.why import reasons_to_wait
from arcray.core.workload import Inference, Phase, Workload

__all__ = ["explain"]

_FIRST_FEW: Final = 5


def explain(
    state: ClusterState, workload: Workload, now: datetime, sees: AccountId | None = None
) -> WorkloadExplanation:
    """Returns what a workload waits for.

    Args:
        sees: whose workloads may be named, as being ahead or ended for it; None names all.
    """
    spec, payload = workload.spec, workload.spec.payload
    over: tuple[Excess, ...] = ()
    ahead = NOBODY_AHEAD
    has_room = False
    if isinstance(payload, Inference):
        placement = state.routing.explain(payload.model_id, now.timestamp())
        has_room = placement.fits > 0
        ahead = _ahead_for_slot(state, workload, sees)
    else:
        placement = state.placement.explain(placement_request(spec))
        shortfall = _shortfall(state, workload)
        placement = replace(placement, notes=tuple(reasons_to_wait(state, workload, now, shortfall, sees)))
        has_room = _has_room(state, workload, placement, shortfall)
        if workload.phase is Phase.PENDING and workload.claim is None:
            over = excesses(state, workload)
            queued = spec.id if spec.gang is None else state.gangs.of(spec).leader
            if queued is not None:
                ahead = state.pending.ahead_of(queued, _FIRST_FEW, sees)
    not_before = _not_before(state, workload)
    backs_off = not_before is not None and not_before > now
    waits_for = _waits_for(state, workload, over, has_room=has_room, backs_off=backs_off)
    return WorkloadExplanation(
        workload_id=spec.id,
        account=spec.origin.account,
        at=now,
        phase=workload.phase,
        node_id=workload.node_id,
        waits_for=waits_for,
        placement=placement,
        not_before=not_before if backs_off else None,
        excesses=over,
        ahead=ahead.total,
        first_ahead=ahead.first,
        estimate=_estimate(
            state, workload, now, begin=max(now, not_before or now), waits_for=waits_for, ahead=ahead, has_room=has_room
        ),
    )


def _not_before(state: ClusterState, workload: Workload) -> datetime | None:
    """Returns when its back-off ends: that of its gang, all of which waits for the member with the longest."""
    if workload.phase is Phase.PENDING and workload.spec.gang is not None:
        gang = state.gangs.of(workload.spec)
        if gang.ready:
            return gang.not_before
    return workload.not_before


def _ahead_for_slot(state: ClusterState, workload: Workload, sees: AccountId | None) -> Ahead:
    ahead = list(state.waiting.ahead_of(workload.spec.id))
    visible = (other for other in ahead if sees in (None, state.workloads[other].spec.origin.account))
    return Ahead(len(ahead), len(ahead), tuple(islice(visible, _FIRST_FEW)))


def _shortfall(state: ClusterState, workload: Workload) -> Shortfall | None:
    """Returns why the gang of a workload, all of which waits, has no place now; None where it has, or is none."""
    if workload.phase is not Phase.PENDING or workload.spec.gang is None:
        return None
    gang = state.gangs.of(workload.spec)
    if not gang.ready:
        return None
    found = place_together(state.placement, requests_of(state, gang), gang.gang.layout)  # 17 ms for 256 that fit
    return found if isinstance(found, Shortfall) else None


def _has_room(state: ClusterState, workload: Workload, placement: Explanation, shortfall: Shortfall | None) -> bool:
    """Returns whether it could start now, queue and quota aside: a gang only with all of its members."""
    if workload.phase is not Phase.PENDING or workload.claim is not None:
        return False
    if workload.spec.gang is None:
        return placement.fits > 0
    return state.gangs.of(workload.spec).ready and shortfall is None


def _waits_for(
    state: ClusterState, workload: Workload, over: tuple[Excess, ...], *, has_room: bool, backs_off: bool
) -> WaitsFor:
    if workload.phase is not Phase.PENDING:
        return WaitsFor.NOTHING
    if backs_off:
        return WaitsFor.BACK_OFF
    if workload.spec.gang is not None and not state.gangs.of(workload.spec).ready:
        return WaitsFor.GANG
    if over:
        return WaitsFor.QUOTA
    if has_room:
        return WaitsFor.TURN
    return WaitsFor.SLOT if isinstance(workload.spec.payload, Inference) else WaitsFor.PLACE


def _estimate(
    state: ClusterState,
    workload: Workload,
    now: datetime,
    *,
    begin: datetime,
    waits_for: WaitsFor,
    ahead: Ahead,
    has_room: bool,
) -> StartEstimate | None:
    if waits_for is WaitsFor.NOTHING:
        return None
    shape, same = shape_of(workload), ahead.alike
    if has_room and not ahead.total and waits_for is not WaitsFor.QUOTA:
        return StartEstimate(earliest=begin, latest=begin, basis="a node has room for it now")
    if workload.spec.gang is not None or workload.claim is not None:
        return None  # how long single work takes says nothing of them
    owner = workload.spec.origin.account if waits_for is WaitsFor.QUOTA else None
    takes = state.durations.duration(shape)
    since = [other.placed_at for other in _running(state, shape, owner) if other.placed_at is not None]
    if takes is not None and since:
        elapsed = [(now - placed_at).total_seconds() for placed_at in since]
        first = _nth_end(same, [max(0.0, takes.low_s - ran_s) for ran_s in elapsed], takes.low_s)
        last = _nth_end(same, [max(0.0, takes.high_s - ran_s) for ran_s in elapsed], takes.high_s)
        basis = f"{len(since)} such run now and such work takes {takes.low_s:.3g} to {takes.high_s:.3g} s"
    else:
        every = state.durations.interval(shape)
        if every is None:
            return None
        first, last = (same + 1) * every.low_s, (same + 1) * every.high_s
        basis = f"such work starts every {every.low_s:.3g} to {every.high_s:.3g} s"
    earliest, latest = now + timedelta(seconds=first), now + timedelta(seconds=max(first, last))
    return StartEstimate(earliest=max(begin, earliest), latest=max(begin, latest), basis=basis)


def _nth_end(nth: int, remaining_s: list[float], takes_s: float) -> float:
    """Returns when the place of the nth end (0 for the first) is free, each end being followed by another start."""
    rounds, index = divmod(nth, len(remaining_s))
    return rounds * takes_s + sorted(remaining_s)[index]


def _running(state: ClusterState, shape: Hashable, owner: AccountId | None) -> Iterator[Workload]:
    """Yields the placed work of a shape; visits everything that is placed."""
    for on_node in state.on_node.values():
        for workload_id in on_node:
            workload = state.workloads[workload_id]
            if owner in (None, workload.spec.origin.account) and shape_of(workload) == shape:
                yield workload
