"""Rules about drains: moving the old work of a cordoned node, or of some of its GPUs, away.

What may run twice is stopped with grace and placed elsewhere. A copy of a model is loaded elsewhere first, by a
workload of its own that ``replaces`` it, and ends once that one answers; where there is no room for a second copy it
stays until the deadline. A replacement that fails is tried again, whatever its restart policy, for as long as it is
waited for; a copy that fails meanwhile leaves its place to the replacement. Everything else is waited for, what is left
of a gang that has lost members to their ends among it. At the deadline what is left is stopped, and work that may not
start again has failed: a dead letter, which can be replayed.

Requests in flight are left to their end; they are short and bounded.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from arcray.core import events as ev
from arcray.core.claim import Cause
from arcray.core.commands import DrainNode
from arcray.core.errors import InsufficientCreditsError, InvalidArgumentError
from arcray.core.handlers.admission import check_credits
from arcray.core.handlers.evictions import evict, may_move
from arcray.core.handlers.nodes import check_gpus, known_node, set_scheduling
from arcray.core.handlers.workloads import stop_for_good
from arcray.core.ids import WorkloadId, foreign_id
from arcray.core.node import Drain, Node
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Inference, ModelServer, Phase, Workload

__all__ = [
    "advance_drains",
    "call_off_drain",
    "drains_due",
    "expire_drains",
    "is_drained",
    "on_drain_node",
    "takes_copy_along",
]

_REASON: Final = "its node was drained"
_LONGEST_S: Final = 366 * 86_400.0


def on_drain_node(turn: Turn, command: DrainNode) -> None:
    """Begins a drain, or gives one that is under way other options."""
    node = known_node(turn, command.node_id)
    check_gpus(node, command.gpus)
    if command.deadline_s is not None and not 0 <= command.deadline_s <= _LONGEST_S:
        raise InvalidArgumentError(f"must be between 0 and {_LONGEST_S:g}", field="deadlineS")
    if not 0 <= command.grace_s <= _LONGEST_S:
        raise InvalidArgumentError(f"must be between 0 and {_LONGEST_S:g}", field="graceS")
    set_scheduling(turn, node, cordoned=True, gpus=command.gpus)
    deadline = None if command.deadline_s is None else turn.now + timedelta(seconds=command.deadline_s)
    gpus = command.gpus
    if node.drain is not None and gpus:
        gpus = gpus | node.drain.gpus if node.drain.gpus else frozenset()  # of a node that is drained as a whole
    drain = Drain(started_at=turn.now, gpus=gpus, deadline=deadline, grace_s=command.grace_s)
    if drain != node.drain:  # else it was asked for twice within an instant
        turn.emit(ev.NodeDrainChanged(node_id=node.id, drain=drain, at=turn.now))
    for workload in _affected(turn.state, node):
        if _has_nowhere_to_go(workload, drain):
            continue
        if takes_copy_along(workload, drain):
            _begin_replacement(turn, workload)
        elif may_move(turn.state, workload):
            evict(turn, workload, Cause.DRAIN, _REASON, command.grace_s)
    expire_drains(turn)


def call_off_drain(turn: Turn, node: Node, gpus: frozenset[int]) -> None:
    """Ends the drain of a node, or of some GPUs, that was uncordoned. Work that is being moved goes on moving."""
    drain = node.drain
    if drain is None or bool(drain.gpus) != bool(gpus):
        return
    left = drain.gpus - gpus
    remaining = replace(drain, gpus=left) if gpus and left else None
    if remaining == drain:
        return
    before = _affected(turn.state, node)
    turn.emit(ev.NodeDrainChanged(node_id=node.id, drain=remaining, at=turn.now))
    kept = {workload.spec.id for workload in _affected(turn.state, node)}
    for workload in before:
        replacement = turn.state.copies.replacement_of(workload.id)
        if workload.spec.id not in kept and workload.eviction is None and replacement is not None:
            stop_for_good(turn, replacement, drain.grace_s)


def advance_drains(turn: Turn) -> None:
    """Takes the next steps of drains whose work has changed: ends what is replaced, and states that one is done."""
    state = turn.state
    while state.drains_to_check:
        node_id, _ = state.drains_to_check.popitem()
        node = state.nodes[node_id]
        assert node.drain is not None
        affected = _affected(state, node)
        if not affected and not _answers_requests(state, node):
            done = replace(node.drain, done_at=turn.now)
            turn.emit(ev.NodeDrainChanged(node_id=node_id, drain=done, at=turn.now))
            continue
        for workload in affected:
            replacement = state.copies.replacement_of(workload.id)
            if replacement is not None and replacement.phase is Phase.RUNNING:
                evict(turn, workload, Cause.DRAIN, _REASON, node.drain.grace_s)


def is_drained(state: ClusterState, workload: Workload) -> bool:
    """Returns whether a drain that has not come to its end is about a live workload; of requests it never is."""
    if workload.node_id not in state.draining or isinstance(workload.spec.payload, Inference):
        return False
    drain = state.nodes[workload.node_id].drain
    return drain is not None and workload.allocation is not None and (not drain.gpus or _uses(workload, drain.gpus))


def takes_copy_along(workload: Workload, drain: Drain) -> bool:
    """Returns whether a drain has another copy of its model loaded before a workload ends."""
    is_copy = isinstance(workload.spec.payload, ModelServer) and workload.spec.gang is None
    return is_copy and not _has_nowhere_to_go(workload, drain)


def drains_due(state: ClusterState) -> datetime | None:
    """Returns when the next deadline is at which something is still to be stopped."""
    drains = (state.nodes[node_id].drain for node_id in state.draining)
    pending = (drain.deadline for drain in drains if drain is not None and drain.deadline is not None)
    return min(pending, default=None)


def expire_drains(turn: Turn) -> None:
    """Stops what is left where a deadline has passed; the drain then waits for those ends alone."""
    state = turn.state
    for node_id in list(state.draining):
        node = state.nodes[node_id]
        drain = node.drain
        if drain is None or drain.deadline is None or drain.deadline > turn.now:
            continue
        turn.emit(ev.NodeDrainChanged(node_id=node_id, drain=replace(drain, deadline=None), at=turn.now))
        for workload in _affected(state, node):
            if may_move(state, workload) or state.copies.replacement_of(workload.id) is not None:
                evict(turn, workload, Cause.DRAIN, _REASON, drain.grace_s)
            else:
                evict(turn, workload, Cause.DRAIN, f"{_REASON} before it ended", drain.grace_s, fails=True)


def _begin_replacement(turn: Turn, workload: Workload) -> None:
    """Has another copy loaded, unless that is under way; it waits for room like all work."""
    copies = turn.state.copies
    if workload.phase is Phase.STOPPING or copies.replacement_of(workload.id) is not None:
        return
    # Never given before: by the moment in another memory, by the count within this one.
    name = f"{workload.id}/{turn.now.isoformat()}/{copies.begun}"
    spec = replace(
        workload.spec,
        id=WorkloadId(foreign_id("replacement", name)),
        created_at=turn.now,
        request_id="",
        request_digest="",
        replaces=workload.spec.id,
        replaced_in_turn=copies.in_turn(workload),
        replay_of=None,
        reservation_id=None,
    )
    try:
        check_credits(turn, spec)
    except InsufficientCreditsError:
        return  # it stays until the deadline, as where there is no room
    turn.emit(ev.WorkloadSubmitted(spec=spec, at=turn.now))


def _affected(state: ClusterState, node: Node) -> list[Workload]:
    """Returns the live work that a drain is about, requests in flight aside."""
    drain = node.drain
    if drain is None:
        return []
    return [
        workload
        for workload in state.live_on(node.id)
        if not isinstance(workload.spec.payload, Inference) and (not drain.gpus or _uses(workload, drain.gpus))
    ]


def _has_nowhere_to_go(workload: Workload, drain: Drain) -> bool:
    """Whether it is bound to the node that is drained as a whole."""
    return workload.spec.node_id is not None and not drain.gpus


def _uses(workload: Workload, gpus: frozenset[int]) -> bool:
    assert workload.allocation is not None, "live work on a node holds something"
    return any(share.index in gpus for share in workload.allocation.gpus)


def _answers_requests(state: ClusterState, node: Node) -> bool:
    """Whether requests are in flight on a node that is drained as a whole."""
    return node.draining and bool(state.on_node[node.id])
