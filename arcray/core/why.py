"""Why a workload waits, beyond what single nodes say of it: its gang, those held back for others, what could be ended.

And what a drain waits for that is to move it.

Sentences for people, each about one fact. They read the state and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from arcray.core.gang_queue import GangState
from arcray.core.handlers.drains import is_drained, takes_copy_along
from arcray.core.handlers.gangs import fits_when_empty
from arcray.core.handlers.preemption import would_preempt
from arcray.core.handlers.quotas import excesses
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.placement.together import Shortfall
from arcray.core.state import ClusterState
from arcray.core.workload import Phase, Workload

__all__ = ["reasons_to_wait"]


def reasons_to_wait(
    state: ClusterState,
    workload: Workload,
    now: datetime,
    shortfall: Shortfall | None,
    sees: AccountId | None = None,
) -> Iterator[str]:
    """Yields what else there is to say of a workload that waits for a place, or that a drain waits for.

    Args:
        shortfall: why its gang, all of which waits, cannot start now; None where it can, or is none.
        sees: whose workloads may be named; None names all.
    """
    if workload.phase is not Phase.PENDING:
        if workload.eviction is not None and workload.eviction.by is not None:
            yield f"it was preempted for {_named(state, (workload.eviction.by,), sees)}"
        yield from _of_drain(state, workload)
        return
    if workload.claim is not None:
        ending = _named(state, state.claims.waits_for(workload.id), sees)
        yield f"node {workload.claim.node_id} is kept for it until what was preempted there has ended: {ending}"
        if workload.claim.until is not None:
            yield f"if that has not ended by {workload.claim.until.isoformat()} it waits for any place again"
        return
    if workload.spec.gang is not None:
        gang = state.gangs.of(workload.spec)
        yield from _of_gang(state, gang, shortfall)
        if state.gangs.holder is gang:
            yield f"{len(state.gangs.held)} nodes are held back for its gang"
            return
    holder = state.gangs.holder
    if holder is not None and holder.complete_at is not None:
        since = holder.complete_at.isoformat()
        yield f"{len(state.gangs.held)} nodes are held back for a gang that has waited since {since}"
    if workload.spec.gang is None and _has_its_turn(state, workload, now):
        found = would_preempt(state, workload, now)
        if found is not None:
            yield f"would preempt {_named(state, found.victims, sees)} on node {found.node_id}"


def _named(state: ClusterState, ids: Collection[WorkloadId], sees: AccountId | None) -> str:
    """Returns workloads by their ids, and how many there are of those that the asker may not see."""
    visible = sorted(each for each in ids if sees is None or _account(state, each) == sees)
    hidden = len(ids) - len(visible)
    return ", ".join((*visible, *([f"{hidden} of other accounts"] if hidden else [])))


def _account(state: ClusterState, workload_id: WorkloadId) -> AccountId | None:
    workload = state.workloads.get(workload_id)
    return None if workload is None else workload.spec.origin.account


def _has_its_turn(state: ClusterState, workload: Workload, now: datetime) -> bool:
    """Whether rounds look at it at all: not in back-off, nor while its account's quota is used up."""
    backs_off = workload.not_before is not None and workload.not_before > now
    return not backs_off and not excesses(state, workload)


def _of_drain(state: ClusterState, workload: Workload) -> Iterator[str]:
    if workload.phase is Phase.STOPPING or not is_drained(state, workload):
        return
    assert workload.node_id is not None
    drain = state.nodes[workload.node_id].drain
    assert drain is not None
    replacement = state.copies.replacement_of(workload.id)
    if replacement is not None:
        message = f": {replacement.message}" if replacement.message else ""
        yield f"its node is drained: it ends once {replacement.id} answers, which is {replacement.phase}{message}"
    elif takes_copy_along(workload, drain):
        yield "its node is drained, and nothing is loaded in its place: drain the node again to load another copy"
    else:
        yield "its node is drained, and it may not go on elsewhere: its end is waited for"
    if drain.deadline is not None:
        yield f"it is stopped at {drain.deadline.isoformat()} otherwise"


def _of_gang(state: ClusterState, gang: GangState, shortfall: Shortfall | None) -> Iterator[str]:
    name, size = gang.gang.id, gang.gang.size
    if gang.complete_at is None:
        until = gang.deadline.isoformat()
        yield f"{len(gang.members)} of {size} members of gang {name} are there; they are rejected at {until} otherwise"
        return
    if not gang.ready:
        yield f"gang {name} starts again once all of its members have ended"
        return
    if shortfall is None:
        return
    yield _short(shortfall, size, f"gang {name} starts when all of its {size} members fit at once ({gang.gang.layout})")
    never = fits_when_empty(state, gang)
    if never is not None:
        yield _short(never, size, "even if nothing else ran on the nodes that take work now")


def _short(shortfall: Shortfall, size: int, head: str) -> str:
    return f"{head}: {shortfall.placed} of {size} have a place, and beside them {shortfall.explanation.sentence()}"
