"""The order that ends an attempt, whoever asks for that and why."""

from __future__ import annotations

from arcray.core.orders import StopAttempt
from arcray.core.workload import Workload

__all__ = ["stop_order"]


def stop_order(workload: Workload, grace_s: float) -> StopAttempt:
    """Returns the order that ends the present attempt of a workload."""
    spec = workload.spec
    return StopAttempt(
        workload_id=spec.id, attempt=workload.attempt, grace_s=grace_s, created_s=spec.created_at.timestamp()
    )
