"""What nodes tell of workloads, in core's words: phases, ends, logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.ids import NodeId
from arcray.core.workload import Phase

__all__ = ["PHASES", "log_of", "report_of", "state_of"]

PHASES: Final[Mapping[claw.WorkloadState, Phase | None]] = {
    claw.WorkloadState.PENDING: None,  # placed is what the pool has said itself
    claw.WorkloadState.PULLING: Phase.PULLING,
    claw.WorkloadState.STARTING: Phase.STARTING,
    claw.WorkloadState.RUNNING: Phase.RUNNING,
    claw.WorkloadState.STOPPING: None,  # and so is this
    claw.WorkloadState.STOPPED: Phase.STOPPED,
    claw.WorkloadState.FAILED: Phase.FAILED,
    claw.WorkloadState.COMPLETED: Phase.SUCCEEDED,
}
"""What a node's word is in core's; None where there is nothing to report."""

_MESSAGE_LIMIT: Final = 4096


def state_of(update: claw.WorkloadUpdate | original.WorkloadUpdate) -> claw.WorkloadState:
    """Returns the state that an update tells of, in the document's words."""
    return claw.WorkloadState(update.state.value)


def report_of(
    state: claw.WorkloadState, message: str | None, work: Running, *, node_id: NodeId, epoch: int
) -> ReportPhase | ReportEnd | None:
    """Returns what the pool is told of an attempt that went to a state; None where it knows.

    Args:
        state: after ``claw_proto.advance``, which knows what stopping makes of an end.
        message: the node's, for people; NUL characters, which no database takes, are marked, and its end is cut off.
    """
    phase = PHASES[state]
    if phase is None:
        return None
    kind = ReportEnd if phase.terminal else ReportPhase
    return kind(
        node_id=node_id,
        epoch=epoch,
        workload_id=work.workload_id,
        attempt=work.attempt,
        phase=phase,
        message=(message or "").replace("\0", "\N{REPLACEMENT CHARACTER}")[:_MESSAGE_LIMIT],
    )


def log_of(lines: Sequence[str]) -> bytes:
    """Returns lines as a log has them."""
    return "".join(f"{line}\n" for line in lines).encode()
