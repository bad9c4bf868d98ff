"""What is asked of a simulation, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.node import NodeRegistration
from arcray.core.resources import Allocation
from arcray.core.workload import Phase, WorkloadSpec

__all__ = ["Displaced", "Simulate", "SimulatedSubmission", "Simulation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulate:
    """Answers ``Simulation``: what would happen if, on a copy of the live state. Changes nothing.

    Raises ResourceExhaustedError while another one runs, DeadlineExceededError when it takes too long.

    Args:
        add_nodes: machines that join.
        remove_nodes: machines that leave at once.
        drain_nodes: machines that are drained, their work stopping as soon as it is asked to.
        submit: workloads that are sent then, in order.
        account: whose workloads the answer may name; None names all.
    """

    add_nodes: tuple[NodeRegistration, ...] = ()
    remove_nodes: tuple[NodeId, ...] = ()
    drain_nodes: tuple[NodeId, ...] = ()
    submit: tuple[WorkloadSpec, ...] = ()
    account: AccountId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSubmission:
    """What would become of one workload.

    Args:
        node_id: where it would be placed; None when it would wait or be refused.
        allocation: what it would get there.
        explanation: what it would wait for.
        refusal: why it would be refused; "" when it would be accepted.
    """

    spec: WorkloadSpec
    node_id: NodeId | None = None
    allocation: Allocation | None = None
    explanation: WorkloadExplanation | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Displaced:
    """What would become of work that a removed or drained node has.

    Args:
        node_id: where it is now.
        moved_to: where it would go on; None when it would not.
        phase: what it would be then.
    """

    workload_id: WorkloadId
    name: str
    node_id: NodeId
    moved_to: NodeId | None
    phase: Phase
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What would happen.

    Args:
        submitted: as they were given.
        displaced: those that the asker may see; ``displaced_total`` counts all.
        started: pending work that would start besides, as far as the asker may see it; ``started_total`` counts all.
        waiting: workloads that would wait for a place then.
        left_out: pending workloads, the last in the queue, that were not looked at because there are too many.
    """

    submitted: tuple[SimulatedSubmission, ...]
    displaced: tuple[Displaced, ...]
    displaced_total: int
    started: tuple[WorkloadId, ...]
    started_total: int
    waiting: int
    left_out: int
    now: datetime
