"""Lost wake-ups: work that waits although a round would begin it now, and nothing asks for that round.

Work that waits costs nothing until something happens that may concern it; whatever that is has to ask for a round. Who
forgets it once has work wait for ever beside free nodes, unless something else happens to ask. So whenever the cluster
says that it has nothing to do, rounds are forced upon a copy of it, and must come to nothing.

What waits while nodes are held back for a gang is left aside: that is looked at again when it ends, which has a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Final

from arcray.core import events as ev
from arcray.core.cluster import Cluster
from arcray.core.commands import Schedule
from arcray.core.node import NodeRegistration
from arcray.core.state import ClusterState

__all__ = ["overlooked"]

_PASSES: Final = 2  # the first may end with searches that only a second one makes
_MOST_ROUNDS: Final = 200


def overlooked(cluster: Cluster) -> str:
    """Returns what a round would begin that nothing asks for; "" when there is no such thing, or it is not at rest."""
    state = cluster.state
    due = cluster.next_due()
    if cluster.needs_round or not len(state.pending) or state.gangs.held or (due is not None and due <= cluster.now):
        return ""
    shared = (state.policy, *(each.spec for each in state.workloads.values()), *_registrations(state))
    copy = deepcopy(cluster, {id(value): value for value in shared})  # what does not change costs half of it
    for _ in range(_PASSES):
        copy.state.needs_round = True
        for _ in range(_MOST_ROUNDS):
            if not copy.needs_round:
                break
            for event in copy.handle(Schedule(), copy.now).events:
                if isinstance(event, ev.WorkloadPlaced | ev.WorkloadPreempted | ev.PlaceClaimed):
                    return f"{event.workload_id} waits, and a round that nothing asks for has {type(event).__name__}"
    return ""


def _registrations(state: ClusterState) -> Iterator[NodeRegistration]:
    return (node.registration for node in state.nodes.values())
