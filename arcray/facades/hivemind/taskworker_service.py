"""TaskWorkerService: the pool as one worker, to whom a task is handed and of whom it is asked."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from arcray.core.errors import ResourceExhaustedError
from arcray.core.ids import AccountId
from arcray.core.ports import ControlPlane
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind.calls import Call, Method
from arcray.facades.hivemind.contract import taskworker_pb2 as taskworker
from arcray.facades.hivemind.desk import TaskDesk
from arcray.facades.hivemind.node_service import all_nodes
from arcray.facades.hivemind.task_files import TaskFiles
from arcray.facades.hivemind.tasks import end_code
from arcray.facades.hivemind.taskworker import environment_of, status_answer, system_info, upload_request_of
from arcray.facades.hivemind.workers import is_listed

__all__ = ["TaskWorkerService"]

_RESULT_BYTES: Final = 1 << 20  # within an answer about how far it is, which every client has to take


class TaskWorkerService:
    """Answers for the pool as a worker.

    Args:
        nobody: whose tasks are that nobody in particular hands in, because its messages name no user.
    """

    def __init__(self, plane: ControlPlane, desk: TaskDesk, files: TaskFiles, *, nobody: AccountId) -> None:
        self._plane = plane
        self._desk = desk
        self._files = files
        self._nobody = nobody

    def methods(self) -> Mapping[str, Method]:
        """Returns the service's methods by name."""
        return {
            "ExecuteTask": self.execute_task,
            "GetTaskStatus": self.get_task_status,
            "CancelTask": self.cancel_task,
            "GetSystemInfo": self.get_system_info,
        }

    async def execute_task(self, request: taskworker.ExecuteTaskRequest, call: Call) -> taskworker.ExecuteTaskResponse:
        """Accepts a task; answered once it is on disk, and not when it has ended."""
        user = call.caller.user or self._nobody
        upload, env = upload_request_of(request), environment_of(request)
        await self._desk.submit(upload, user=user, now=call.now, env=env)
        return taskworker.ExecuteTaskResponse(
            success=True, message=f"accepted {request.task_id}", task_id=request.task_id
        )

    async def get_task_status(
        self, request: taskworker.GetTaskStatusRequest, call: Call
    ) -> taskworker.GetTaskStatusResponse:
        """Tells how far a task is, with its result where that is small."""
        view = await self._desk.find(request.task_id, call.caller)
        call.code = end_code(view)
        return await self._status(view)

    async def cancel_task(self, request: taskworker.CancelTaskRequest, call: Call) -> taskworker.CancelTaskResponse:
        """Ends a task."""
        await self._desk.stop(request.task_id, call.caller)
        return taskworker.CancelTaskResponse(success=True, message=f"stopped {request.task_id}")

    async def get_system_info(
        self, request: taskworker.GetSystemInfoRequest, call: Call
    ) -> taskworker.GetSystemInfoResponse:
        """Tells what the nodes have that were heard of lately."""
        _ = request
        nodes = [view for view in await all_nodes(self._plane) if is_listed(view, call.now)]
        return system_info(socket.gethostname(), nodes)

    async def _status(self, view: WorkloadView) -> taskworker.GetTaskStatusResponse:
        if view.phase is not Phase.SUCCEEDED:
            return status_answer(view, b"")
        try:
            return status_answer(view, await self._files.result(view, _RESULT_BYTES))
        except ResourceExhaustedError:
            answer = status_answer(view, b"")
            answer.message = "its result is large; nodepool.MasterNodeService/GetTaskResult has it"
            return answer
