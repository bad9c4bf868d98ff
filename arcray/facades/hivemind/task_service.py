"""MasterNodeService as those see it who hand tasks in: upload, poll, result, logs, list and stop.

Its other methods are what workers tell; see ``worker_service``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from arcray.core.errors import NotFoundError
from arcray.core.ids import NodeId
from arcray.core.node import NodeView
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetNode, ListWorkloads, WorkloadPage
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.callers import Callers
from arcray.facades.hivemind.calls import Call, Method
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.desk import TaskDesk
from arcray.facades.hivemind.outputs import rendered_logs
from arcray.facades.hivemind.reasons import Reasons
from arcray.facades.hivemind.task_files import TaskFiles
from arcray.facades.hivemind.tasks import FACADE, check_has_result, end_code, poll_answer, task_status

__all__ = ["TaskService"]

_LISTED: Final = 100
_LOG_OUTPUT_BYTES: Final = 1 << 20  # clients take 4 MiB of a message where they say nothing else


class TaskService:
    """Answers for tasks."""

    def __init__(
        self, plane: ControlPlane, callers: Callers, desk: TaskDesk, files: TaskFiles, reasons: Reasons
    ) -> None:
        self._plane = plane
        self._callers = callers
        self._desk = desk
        self._files = files
        self._reasons = reasons

    def methods(self) -> Mapping[str, Method]:
        """Returns these methods of the service by name."""
        return {
            "UploadTask": self.upload_task,
            "PollTaskStatus": self.poll_task_status,
            "GetTaskResult": self.get_task_result,
            "GetTaskLogs": self.get_task_logs,
            "GetAllTasks": self.get_all_tasks,
            "StopTask": self.stop_task,
        }

    async def upload_task(self, request: pool.UploadTaskRequest, call: Call) -> pool.UploadTaskResponse:
        """Accepts a task; answered once it is on disk."""
        await self._desk.submit(request, user=call.caller.user, now=call.now)
        return pool.UploadTaskResponse(success=True, message=f"accepted {request.task_id}")

    async def poll_task_status(self, request: pool.PollTaskStatusRequest, call: Call) -> pool.PollTaskStatusResponse:
        """Tells how far a task is, and the end of its output."""
        view = await self._desk.find(request.task_id, call.caller)
        call.code = end_code(view)
        return poll_answer(view, await self._files.polled_output(view), await self._reasons.of(view))

    async def get_task_result(self, request: pool.GetTaskResultRequest, call: Call) -> pool.GetTaskResultResponse:
        """Gives out what a task left, as often as it is asked for."""
        caller = self._callers.of_message(call.caller, request.token, call.now)
        view = await self._desk.find(request.task_id, caller)
        check_has_result(view)
        data = await self._files.result(view, until_sent=call.until_sent)
        call.code = end_code(view)
        return pool.GetTaskResultResponse(success=True, message=poll_answer(view, b"").message, result_data=data)

    async def get_task_logs(self, request: pool.GetTaskLogsRequest, call: Call) -> pool.GetTaskLogsResponse:
        """Gives out what the workers of a task logged, and what it wrote."""
        caller = self._callers.of_message(call.caller, request.token, call.now)
        view = await self._desk.find(request.task_id, caller)
        logs, output = await asyncio.gather(self._files.logs(view), self._files.output(view, _LOG_OUTPUT_BYTES))
        return pool.GetTaskLogsResponse(success=True, message="", logs=rendered_logs(logs, output))

    async def get_all_tasks(self, request: pool.GetAllTasksRequest, call: Call) -> pool.GetAllTasksResponse:
        """Lists the newest tasks of the caller; everybody's where nobody in particular calls."""
        caller = self._callers.of_message(call.caller, request.token, call.now)
        page: WorkloadPage = await self._plane.query(ListWorkloads(account=caller.sees, facade=FACADE, limit=_LISTED))
        names = await self._names_of(page.workloads)
        return pool.GetAllTasksResponse(
            tasks=[task_status(view, "" if view.node_id is None else names[view.node_id]) for view in page.workloads]
        )

    async def stop_task(self, request: pool.StopTaskRequest, call: Call) -> pool.StopTaskResponse:
        """Ends a task."""
        caller = self._callers.of_message(call.caller, request.token, call.now)
        await self._desk.stop(request.task_id, caller)
        return pool.StopTaskResponse(success=True, message=f"stopped {request.task_id}")

    async def _names_of(self, views: Sequence[WorkloadView]) -> Mapping[NodeId, str]:
        """Returns what the nodes of tasks are called here."""
        ids = sorted({view.node_id for view in views if view.node_id is not None})
        return dict(zip(ids, await asyncio.gather(*map(self._name_of, ids)), strict=True))

    async def _name_of(self, node_id: NodeId) -> str:
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id))
        except NotFoundError:
            return node_id  # it has left, and is forgotten
        return view.registration.external_id or node_id
