"""The ``taskworker`` package: a task that is handed to the pool as if it were a worker.

Source: HiveMind API Documentation, "TaskWorker gRPC API"; it defines the service and one message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.node import NodeView
from arcray.core.quantity import CPU_MILLI, MIB
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.contract import taskworker_pb2 as taskworker
from arcray.facades.hivemind.fields import INT32, sendable, text
from arcray.facades.hivemind.tasks import Status, status_of

__all__ = ["TASK_TYPES", "environment_of", "status_answer", "system_info", "upload_request_of"]

TASK_TYPES: Final = ("python",)

_PARAMETER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PARAMETERS: Final = 128
_VALUE_LIMIT: Final = 32_768
_INT64: Final = 2**63 - 1


def upload_request_of(request: taskworker.ExecuteTaskRequest) -> pool.UploadTaskRequest:
    """Returns the upload that an execution is.

    Raises:
        InvalidArgumentError: it is of a type that no node runs.
    """
    if request.task_type and request.task_type not in TASK_TYPES:
        raise InvalidArgumentError(f"must be one of: {', '.join(TASK_TYPES)}", field="task_type")
    return pool.UploadTaskRequest(task_id=request.task_id, task_data=request.task_data)


def environment_of(request: taskworker.ExecuteTaskRequest) -> tuple[tuple[str, str], ...]:
    """Returns the parameters of a task as its environment, sorted.

    Raises:
        InvalidArgumentError: one cannot be a variable; names it.
    """
    if len(request.parameters) > _PARAMETERS:
        raise InvalidArgumentError(f"may have {_PARAMETERS} entries", field="parameters")
    for key, value in request.parameters.items():
        if not _PARAMETER.fullmatch(key):
            raise InvalidArgumentError(f"{key[:128]!r} is no name of a variable", field="parameters")
        text(value, f"parameters.{key}", longest=_VALUE_LIMIT)
    return tuple(sorted(request.parameters.items()))


def status_answer(view: WorkloadView, result: bytes) -> taskworker.GetTaskStatusResponse:
    """Returns how far a task is.

    Args:
        result: of a task that has completed.
    """
    status = status_of(view)
    return taskworker.GetTaskStatusResponse(
        success=True,
        message=sendable(view.message),
        status=status.value,
        progress=0.0 if status in (Status.PENDING, Status.RUNNING) else 1.0,
        result_data=result,
    )


def system_info(hostname: str, nodes: Sequence[NodeView]) -> taskworker.GetSystemInfoResponse:
    """Returns what the nodes of the pool have and how busy they are, as of one worker."""
    capacities = [view.registration.capacity for view in nodes]
    readings = [view.telemetry for view in nodes if view.telemetry is not None]
    memory_bytes = sum(each.memory_bytes for each in capacities)
    used_bytes = sum(each.memory_used_bytes for each in readings)
    return taskworker.GetSystemInfoResponse(
        hostname=sendable(hostname),
        capabilities=taskworker.NodeCapabilities(
            cpu_cores=min(INT32, sum(each.cpu_milli for each in capacities) // CPU_MILLI),
            memory_mb=min(_INT64, memory_bytes // MIB),
            has_gpu=any(each.gpus for each in capacities),
            supported_tasks=TASK_TYPES,
        ),
        usage=taskworker.ResourceUsage(
            cpu_percent=100 * sum(each.cpu_utilization for each in readings) / max(1, len(readings)),
            memory_percent=100 * used_bytes / memory_bytes if memory_bytes else 0.0,
        ),
    )
