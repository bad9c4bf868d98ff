"""Tasks to workloads, and their ends to results. Sans-I/O; wire units end here.

Source: Resource Pool API Documentation, "Task Submission", "Resource Requirements Format".
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from arcray.core.ids import AccountId, ReservationId, WorkloadId
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.quantity import CPU_MILLI, MAX_QUANTITY, MB, MIB
from arcray.core.resources import Demand
from arcray.core.workload import (
    Container,
    Origin,
    Phase,
    Program,
    RestartPolicy,
    RestartRule,
    WorkloadSpec,
    WorkloadView,
)
from arcray.facades.pool.codec import result_frame
from arcray.facades.pool.messages import Requirements, Task
from arcray.facades.pool.nodes import DEVICE_LABEL, FACADE, PERCENT_MILLI, node_id_of

__all__ = ["NO_PLACE", "demand_of", "keeps_off", "outcome_of", "spec_of"]

NO_PLACE: Final = "Insufficient resources"
_RETRIED: Final = RestartPolicy(rule=RestartRule.ON_LOSS)


def demand_of(wanted: Requirements) -> Demand:
    """Returns what a task asks of its node; 100 is one core, which is what a task gets that asks for none."""
    return Demand(
        cpu_milli=_whole(wanted.cpu, PERCENT_MILLI) or CPU_MILLI,
        memory_bytes=_whole(wanted.memory, MIB),
        disk_bytes=_whole(wanted.storage, MB),
        gpus=int(wanted.gpu),
    )


def keeps_off(device_id: str) -> tuple[LabelTerm, ...]:
    """Returns what keeps a task off the device that hands it in.

    Args:
        device_id: "" where none does.
    """
    if not device_id:
        return ()
    return (LabelTerm(key=DEVICE_LABEL, operator=LabelOperator.NOT_IN, values=(node_id_of(device_id),)),)


def spec_of(
    task: Task,
    payload: Program | Container,
    *,
    workload_id: WorkloadId,
    account: AccountId,
    submitter: str,
    reservation_id: ReservationId,
    now: datetime,
    longest_s: float,
) -> WorkloadSpec:
    """Returns the workload of a task.

    Args:
        submitter: device that hands it in, or "".
        reservation_id: has the place that it takes.
        longest_s: that it may run.
    """
    return WorkloadSpec(
        id=workload_id,
        origin=Origin(facade=FACADE, account=account, external_id=task.id),
        payload=payload,
        created_at=now,
        name=task.command,
        demand=demand_of(task.requirements),
        restart=_RETRIED,
        selector_terms=keeps_off(submitter),
        max_duration_s=longest_s,
        reservation_id=reservation_id,
    )


def outcome_of(task_id: str, view: WorkloadView, output: bytes) -> str:
    """Returns the frame that tells what became of a task.

    Args:
        output: what it wrote.
    """
    text = output.decode(errors="replace")
    if view.phase is Phase.SUCCEEDED:
        return result_frame(task_id, result=text.removesuffix("\n"))
    last = text.rstrip().rpartition("\n")[2]
    reason = view.message or f"it {view.phase}"
    return result_frame(task_id, error=f"{reason}: {last}" if last and view.phase is Phase.FAILED else reason)


def _whole(amount: float, unit: int) -> int:
    return min(MAX_QUANTITY, round(amount * unit))
