"""Rules about what follows in the same turn from the end of an attempt, whatever ended it.

A member of a gang that ended or was given up takes its gang along: all of it starts again, stops or fails. The last
victim of a preemptor that has given its slice back makes the preemptor start there. Both are found by ``apply`` and
settled after every command, so no rule that ends work has to think of them.
"""

from __future__ import annotations

from dataclasses import replace

from arcray.core import events as ev
from arcray.core.asked import placement_request
from arcray.core.claim import Cause
from arcray.core.gang_queue import Break, GangState
from arcray.core.handlers.attempts import finish
from arcray.core.handlers.starting import begin
from arcray.core.handlers.stopping import stop_order
from arcray.core.handlers.workloads import stop
from arcray.core.placement.request import Placement
from arcray.core.turn import Turn
from arcray.core.workload import Phase, Workload

__all__ = ["expire_claims", "expire_gangs", "settle"]


def settle(turn: Turn) -> None:
    """Settles what the events of this turn have broken or made free."""
    state = turn.state
    while state.gangs.broken:
        key, what = state.gangs.broken.popitem()
        gang = state.gangs.get(key)
        if gang is not None:
            _settle_gang(turn, gang, what)
    while state.claims.settled:
        _settle_claim(turn, state.workloads[next(iter(state.claims.settled))])


def expire_claims(turn: Turn) -> None:
    """Has preemptors wait for any place again whose victims do not end."""
    for workload_id in turn.state.claims.overdue(turn.now):
        turn.emit(ev.ClaimEnded(workload_id=workload_id, at=turn.now))


def expire_gangs(turn: Turn) -> None:
    """Rejects the members of gangs whose last ones have not come in time, and lets held nodes go when that is due."""
    gangs = turn.state.gangs
    for gang in gangs.overdue(turn.now):
        missing = f"only {len(gang.members)} of {gang.gang.size} members of gang {gang.gang.id} came"
        for workload_id in list(gang.members):
            reason = f"{missing} within {turn.policy.gang_timeout.total_seconds():g} s"
            finish(turn, turn.state.workloads[workload_id], Phase.REJECTED, reason)
    if gangs.held_until is not None and gangs.held_until <= turn.now:
        gangs.let_go()
        turn.state.more_room()


def _settle_gang(turn: Turn, gang: GangState, what: Break) -> None:
    reason = f"member {what.member} of its gang: {what.reason}"
    for workload_id in list(gang.members):
        workload = turn.state.workloads[workload_id]
        if what.phase is Phase.STOPPED and turn.withdraw(workload_id):
            finish(turn, workload, Phase.STOPPED, reason)  # its node has not heard of it
        elif what.phase is Phase.STOPPED:
            stop(turn, workload, turn.policy.preemption_grace.total_seconds())
        elif workload.phase is not Phase.PENDING:
            _evict(turn, workload, what, reason)
        elif what.phase is not None:
            finish(turn, workload, what.phase, reason)


def _evict(turn: Turn, workload: Workload, what: Break, reason: str) -> None:
    """Asks a member to end; one that is ending already is not asked again, but may be told to fail after all."""
    fails = what.phase is not None
    known = workload.eviction
    if workload.stop_requested or (known is not None and (known.fails or not fails)):
        return
    asked = workload.phase is Phase.STOPPING
    turn.emit(
        ev.WorkloadEvicted(
            workload_id=workload.id,
            attempt=workload.attempt,
            cause=Cause.GANG,
            reason=reason,
            restart=what.restart,
            fails=fails,
            at=turn.now,
        )
    )
    if not asked:
        assert workload.node_id is not None
        grace_s = turn.policy.preemption_grace.total_seconds()
        turn.order(turn.state.nodes[workload.node_id], stop_order(workload, grace_s))


def _settle_claim(turn: Turn, workload: Workload) -> None:
    """Starts a preemptor where room was made for it. If its node is no longer what it was, it waits like any other."""
    claim = workload.claim
    assert claim is not None
    turn.emit(ev.ClaimEnded(workload_id=workload.id, at=turn.now))
    request = replace(placement_request(workload.spec), node_id=claim.node_id)
    placement = turn.state.placement.place(request)
    if isinstance(placement, Placement):
        begin(turn, workload, placement)
