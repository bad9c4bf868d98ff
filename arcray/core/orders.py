"""Orders: what a node is asked to do. Delivered at least once, in order per node; executed at most once per attempt.

A node remembers the attempts it has seen, so an order that comes twice does nothing the second time. An id that other
protocols choose may come again once retention has deleted the work that had it, and attempts of the new work are
counted from one. So each order says when its work was made (``created_s``, seconds since 1970): work of another time is
other work. 0 is where ids do not come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, ModelServer, Program

__all__ = ["NodeOrder", "Order", "RunInference", "StartWorkload", "StopAttempt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorkload:
    """Start this attempt; report every phase and the end.

    Args:
        payload: already lowered to what this node can run.
        demand: what was asked; limits are set by it.
        allocation: the slice it may use; GPU indices are the node's own.
        owner: opaque name of the account; work of different owners is isolated.
    """

    workload_id: WorkloadId
    attempt: int
    payload: Container | Program | ModelServer
    demand: Demand
    allocation: Allocation
    owner: str
    name: str = ""
    max_duration_s: float | None = None
    created_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAttempt:
    """End this attempt: politely, then after ``grace_s`` for certain. Reports ``stopped``."""

    workload_id: WorkloadId
    attempt: int
    grace_s: float
    created_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInference:
    """Answer one request with a loaded model; report its end.

    Args:
        input: UTF-8 JSON, or None.
        timeout_s: after this the node gives up and reports failed.
    """

    workload_id: WorkloadId
    attempt: int
    model_id: ModelId
    input: bytes | None
    context_window_tokens: int
    timeout_s: float
    created_s: float = 0.0


Order: TypeAlias = StartWorkload | StopAttempt | RunInference


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOrder:
    """An order and the attachment it is for."""

    node_id: NodeId
    epoch: int
    order: Order
