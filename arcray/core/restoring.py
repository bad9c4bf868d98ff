"""How an empty state is filled from rows, and how an ended workload comes back into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime

from arcray.core.asked import shape_of
from arcray.core.ledger import Entry
from arcray.core.model import Model
from arcray.core.node import Health, Node
from arcray.core.operation_facts import take, watch_overtime
from arcray.core.policy_facts import grant, keep_place, offer, rejoin
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.workload import Inference, Phase, Workload

__all__ = ["recall", "restore", "times"]


def restore(
    state: ClusterState,
    *,
    nodes: Iterable[Node],
    workloads: Iterable[Workload],
    models: Iterable[Model],
    reservations: Iterable[Reservation],
    quotas: Iterable[AccountQuota],
    now: datetime,
) -> None:
    """Fills an empty state from rows. Leases begin anew at full term; nodes are asked for their models again."""
    assert not state.nodes
    assert not state.workloads
    state.restored_at = now
    for given in quotas:
        state.quotas[given.account] = given.quota
    for model in models:
        state.models[model.id] = model
    for node in nodes:
        _restore_node(state, node, now)
    ordered = sorted(workloads, key=lambda w: (_waits_since(w), w.spec.id))
    for workload in ordered:
        _restore_workload(state, workload, now)
    state.gangs.bereave()
    for workload in ordered:
        if not workload.phase.terminal:
            state.copies.add(workload)  # now that all are known that it may replace
        if workload.claim is not None:
            keep_place(state, workload, workload.claim)
    known = sorted(reservations, key=lambda r: (r.created_at, r.id))
    for reservation in known:
        grant(state, reservation)
    # As many as are kept may be all there are, or the newest of more.
    state.reservations.forgetful = len(known) - state.reservations.active >= state.policy.keep_reservations
    state.dispatched = OrderedDict(sorted(state.dispatched.items(), key=lambda entry: (entry[1], entry[0])))


def times(
    nodes: Iterable[Node], workloads: Iterable[Workload], reservations: Iterable[Reservation], entries: Iterable[Entry]
) -> Iterator[datetime]:
    """Yields when something happened of what rows tell; not when it is due, nor what others' clocks said."""
    for node in nodes:
        yield node.joined_at
        if node.drain is not None:
            yield node.drain.done_at or node.drain.started_at
    for workload in workloads:
        ended = workload.history[-1].ended_at if workload.history else None
        happened = (workload.joined_at, workload.placed_at, workload.started_at, workload.finished_at, ended)
        yield from (time for time in happened if time is not None)
    for reservation in reservations:
        yield reservation.ended_at or reservation.created_at
    yield from (entry.at for entry in entries)


def recall(state: ClusterState, workload: Workload) -> None:
    """Takes a finished workload back into memory, so that the rules see what is about it."""
    assert workload.phase.terminal
    if workload.spec.id not in state.workloads:
        _restore_workload(state, workload, workload.spec.created_at)


def _waits_since(workload: Workload) -> datetime:
    """Returns by what workloads stand in order; what waits for another attempt joined the queue when the last ended."""
    if workload.phase is Phase.PENDING and workload.history:
        return workload.history[-1].ended_at
    return workload.joined_at or workload.spec.created_at


def _restore_node(state: ClusterState, node: Node, now: datetime) -> None:
    state.nodes[node.id] = node
    state.on_node[node.id] = {}
    if node.health in (Health.HEALTHY, Health.UNHEALTHY):
        node.last_seen = now
        node.health = Health.HEALTHY
        state.leases.watch(node.id, now, node.registration.lease)
        state.needs_models.add(node.id)
    if node.drain is not None and node.drain.done_at is None:
        state.draining[node.id] = state.drains_to_check[node.id] = None
    state.node_changed(node.id)


def _restore_workload(state: ClusterState, workload: Workload, now: datetime) -> None:
    spec = workload.spec
    state.workloads[spec.id] = workload
    if spec.request_id and not workload.repeatable:
        state.requests[spec.origin.account, spec.request_id] = spec.id
    state.books.restore_meter(workload)
    if workload.phase.terminal:
        state.latest_of(workload).append(spec.id)
        if workload.placed_at is not None and workload.finished_at is not None and workload.node_id is not None:
            state.durations.ended(shape_of(workload), (workload.finished_at - workload.placed_at).total_seconds())
        return
    if spec.gang is not None:
        rejoin(state, workload, state.policy.gang_timeout, now)
    if workload.phase is Phase.PENDING:
        if workload.claim is None:  # else its place is kept once its victims are known
            state.enqueue(workload, now)  # as with leases: patience begins anew
        return
    assert workload.node_id is not None
    assert workload.allocation is not None
    assert workload.placed_at is not None
    state.on_node[workload.node_id][spec.id] = None
    if isinstance(spec.payload, Inference):
        state.routing.acquire(workload.node_id, spec.payload.model_id)
        state.dispatched[spec.id] = workload.placed_at + state.policy.inference_timeout
        return
    state.placement.allocate(workload.node_id, workload.allocation)
    offer(state, workload)
    take(state, spec.origin.account, spec.demand)
    if workload.started_at is not None:
        # What is ending has some grace again: its node may only now be told.
        watch_overtime(state, workload, workload.started_at, after=now if workload.phase is Phase.STOPPING else None)
