"""How the facts of inference requests change the state. Called by ``ClusterState`` alone.

Like all of ``apply`` these never refuse and never decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcray.core import events as ev
from arcray.core.workload import Phase

if TYPE_CHECKING:
    from arcray.core.ids import ModelId
    from arcray.core.state import ClusterState
    from arcray.core.workload import Workload

__all__ = ["count_end", "wait_again"]


def wait_again(state: ClusterState, event: ev.WorkloadRequeued, model_id: ModelId) -> None:
    """Takes note that a request waits for another attempt: refused, or because its node was lost."""
    if event.refused:
        state.refused_until.setdefault(event.workload_id, event.at + state.policy.routing_patience)
        return
    state.refused_until.pop(event.workload_id, None)
    state.slots_freed[model_id] = None  # another node may have a slot right now


def count_end(state: ClusterState, workload: Workload, event: ev.WorkloadFinished) -> None:
    """Counts the end of a request."""
    state.refused_until.pop(event.workload_id, None)
    counts = state.inference
    if event.phase is Phase.SUCCEEDED:
        counts.completed += 1
        counts.latencies_ms.append((event.at - workload.spec.created_at).total_seconds() * 1000)
    elif event.phase is Phase.REJECTED:
        counts.rejected += 1
    else:
        counts.failed += 1
