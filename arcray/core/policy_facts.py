"""How the facts of preemption, gangs and reservations change the state. Called by ``ClusterState`` alone.

Like all of ``apply`` these never refuse and never decide.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, assert_never

from arcray.core import events as ev
from arcray.core.claim import Cause, Claim, Eviction
from arcray.core.lifecycle import advance
from arcray.core.operation_facts import give_back, look_for_overtime, take
from arcray.core.pending import Lane
from arcray.core.placement.preemption import Victim
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.workload import Phase, Priority, Workload

if TYPE_CHECKING:
    from arcray.core.ids import WorkloadId
    from arcray.core.state import ClusterState

__all__ = [
    "PolicyFact",
    "apply_policy",
    "grant",
    "keep_place",
    "keep_place_no_longer",
    "offer",
    "rejoin",
    "stopping",
    "wait_no_longer",
    "wait_with_gang",
]

PolicyFact: TypeAlias = (
    ev.WorkloadPreempted
    | ev.WorkloadEvicted
    | ev.PlaceClaimed
    | ev.ClaimEnded
    | ev.ReservationGranted
    | ev.ReservationTaken
    | ev.ReservationEnded
)


def apply_policy(state: ClusterState, fact: PolicyFact) -> None:
    """Changes the state as the fact says."""
    match fact:
        case ev.WorkloadPreempted():
            workload = stopping(state, fact.workload_id)
            workload.eviction = Eviction(cause=Cause.PREEMPTED, reason=fact.reason, by=fact.by)
            workload.preemptions += 1
        case ev.WorkloadEvicted():
            workload = stopping(state, fact.workload_id)
            workload.eviction = Eviction(cause=fact.cause, reason=fact.reason, restart=fact.restart, fails=fact.fails)
            if fact.cause is Cause.OVERTIME:
                look_for_overtime(state, workload, fact.at)
        case ev.PlaceClaimed():
            workload = state.workloads[fact.workload_id]
            state.dequeue(workload)
            workload.claim = Claim(
                node_id=fact.node_id, allocation=fact.allocation, victims=fact.victims, until=fact.until
            )
            keep_place(state, workload, workload.claim)
        case ev.ClaimEnded():
            workload = state.workloads[fact.workload_id]
            state.dequeue(workload)
            state.enqueue(workload, fact.at)
        case ev.ReservationGranted():
            grant(state, fact.reservation)
        case ev.ReservationTaken():
            reservation = state.reservations.known(fact.reservation_id)
            give_back(state, reservation.account, reservation.slices[fact.index].allocation)
            state.reservations.take(fact.reservation_id, fact.index, fact.left)
            take(state, reservation.account, fact.left)
        case ev.ReservationEnded():
            reservation = state.reservations.known(fact.reservation_id)
            for part in reservation.slices:
                give_back(state, reservation.account, part.allocation)
            state.reservations.end(fact.reservation_id, fact.state, fact.message, fact.at)
            state.more_room()
        case _:
            assert_never(fact)


def stopping(state: ClusterState, workload_id: WorkloadId) -> Workload:
    """Takes note that a workload was asked to end, whatever asked first; returns it."""
    workload = state.workloads[workload_id]
    if workload.phase is not Phase.STOPPING:
        workload.phase = advance(workload.phase, Phase.STOPPING)
    state.reclaimable.discard(workload_id)
    return workload


def offer(state: ClusterState, workload: Workload) -> None:
    """Takes placed work up among that which may be ended for other work, if it is of that kind."""
    spec = workload.spec
    if not spec.preemptible or workload.phase is Phase.STOPPING or spec.priority is Priority.CRITICAL:
        return
    assert workload.node_id is not None
    assert workload.allocation is not None
    assert workload.placed_at is not None
    since_s = workload.placed_at.timestamp()
    victim = Victim(id=spec.id, priority=spec.priority, allocation=workload.allocation, since_s=since_s)
    state.reclaimable.add(state.placement.slot(workload.node_id), victim)
    state.room += 1


def grant(state: ClusterState, reservation: Reservation) -> None:
    """Takes up a reservation; what is left of an active one counts as held by its account."""
    state.reservations.grant(reservation)
    if reservation.state is ReservationState.ACTIVE:
        for part in reservation.slices:
            take(state, reservation.account, part.allocation)


def keep_place(state: ClusterState, workload: Workload, claim: Claim) -> None:
    """Keeps a place for a preemptor, beside what those of its victims hold that have not ended yet."""
    held = {}
    for victim_id in claim.victims:
        victim = state.workloads.get(victim_id)
        if victim is not None and victim.eviction is not None and victim.allocation is not None:
            held[victim_id] = victim.allocation
    state.claims.add(workload.spec.id, claim, held)
    take(state, workload.spec.origin.account, workload.spec.demand)


def keep_place_no_longer(state: ClusterState, workload: Workload) -> None:
    """Lets go of the place that was kept for a preemptor."""
    state.claims.drop(workload.spec.id)
    workload.claim = None
    give_back(state, workload.spec.origin.account, workload.spec.demand)
    state.more_room()


def wait_with_gang(state: ClusterState, workload: Workload, now: datetime) -> None:
    """Has a member wait; the last one puts its gang in the queue."""
    spec = workload.spec
    gang = state.gangs.of(spec)
    gang.wait(spec.id, workload.not_before)
    state.gangs.wait(spec.origin.account)
    if gang.ready:
        gang.leader = next(iter(gang.members))
        due = gang.not_before  # that of an earlier member may be over
        not_before = due if due is not None and due > now else None
        state.pending.add(gang.leader, spec.priority, gang.key, not_before, Lane(spec.origin.account))
        state.gangs.beside[spec.origin.account] -= 1
        state.needs_round = True


def wait_no_longer(state: ClusterState, workload: Workload) -> None:
    """Ends the wait of a member, and so that of its gang as a whole; nodes that were held back for it are free."""
    gang = state.gangs.of(workload.spec)
    gang.unwait(workload.spec.id)
    if gang.leader is not None:
        state.pending.remove(gang.leader)
        state.gangs.beside[workload.spec.origin.account] += 1
        gang.leader = None
        if state.gangs.let_go(gang.key):
            state.more_room()
    state.gangs.unwait(workload.spec.origin.account)


def rejoin(state: ClusterState, workload: Workload, timeout: timedelta, now: datetime) -> None:
    """Takes a member up again that is alive in the rows."""
    spec = workload.spec
    came_at = workload.joined_at or min(spec.created_at, now)  # rows of old have their sender's time alone
    state.gangs.join(spec, came_at, came_at + timeout)
    if workload.attempt:  # it was placed, so its gang was complete, whoever has ended since
        gang = state.gangs.of(spec)
        gang.complete_at = gang.complete_at or came_at
