"""What workers tell: that they are there, what their tasks write, log and return, and how they end.

The methods belong to three services of the contract; the others of those are ``node_service`` and ``task_service``.
What a worker repeats because an answer was lost is answered as the first time where that can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from arcray.core.blobkeys import foreign_log_key, log_key
from arcray.core.commands import ReportPhase, Running, StopWorkload
from arcray.core.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnsupportedError,
)
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetWorkload
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind.calls import Call, Method
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import text
from arcray.facades.hivemind.outputs import stored_logs, stored_output
from arcray.facades.hivemind.own_words import gpus_of, instance_of
from arcray.facades.hivemind.refusals import ErrorCode
from arcray.facades.hivemind.returned import returned_key, store_returned
from arcray.facades.hivemind.tasks import FACADE, check_is_task, status_of, workload_id_of
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.worker_words import Placed, WorkerWords
from arcray.facades.hivemind.workers import end_of, node_id_of, reading_of, registration_of, reward_of
from arcray.wire.asking import ask, ask_all
from arcray.wire.keyed_turns import KeyedTurns

__all__ = ["WorkerService"]

_STATUS_LIMIT: Final = 256
_OFFLINE: Final = "offline"


class WorkerService:
    """Answers workers.

    Args:
        log_bytes: kept of what one piece of work writes, and as much of what is logged about it.
        unpacked_bytes: most that a result may unpack to where its files are kept one by one.
    """

    def __init__(self, plane: ControlPlane, links: WorkerLinks, *, log_bytes: int, unpacked_bytes: int) -> None:
        self._plane = plane
        self._links = links
        self._words = WorkerWords(plane)
        self._log_bytes = log_bytes
        self._unpacked_bytes = unpacked_bytes
        self._turns = KeyedTurns()

    def node_methods(self) -> Mapping[str, Method]:
        """Returns these methods of NodeManagerService by name."""
        return {"RegisterWorkerNode": self.register_worker_node, "ReportStatus": self.report_status}

    def master_methods(self) -> Mapping[str, Method]:
        """Returns these methods of MasterNodeService by name."""
        return {
            "StoreOutput": self.store_output,
            "StoreLogs": self.store_logs,
            "StoreResult": self.store_result,
            "ReturnTaskResult": self.return_task_result,
            "TaskCompleted": self.task_completed,
        }

    def worker_methods(self) -> Mapping[str, Method]:
        """Returns the methods of WorkerNodeService by name."""
        return {
            "ExecuteTask": self.execute_task,
            "ReportOutput": self.report_output,
            "ReportRunningStatus": self.report_running_status,
            "StopTaskExecution": self.stop_task_execution,
        }

    # -- that it is there ---------------------------------------------------------------------------------------------

    async def register_worker_node(self, request: pool.RegisterWorkerNodeRequest, call: Call) -> pool.StatusResponse:
        """Takes a worker into the pool; it gets work once it was reached."""
        owner = await self._words.owner_of(request.node_id, call.caller)
        registration = registration_of(
            request,
            owner=owner,
            speaker=call.caller.user,
            address=self._links.address,
            gpus=gpus_of(call.words),
            instance=instance_of(call.words),
        )
        await self._links.join(registration)
        return pool.StatusResponse(success=True, message=f"registered {request.node_id}")

    async def report_status(self, request: pool.ReportStatusRequest, call: Call) -> pool.StatusResponse:
        """Takes a heartbeat. A worker that says that it is offline leaves: its tasks go elsewhere at once."""
        status = text(request.status, "status", longest=_STATUS_LIMIT)
        await self._words.worker(request.node_id, call.caller)
        if status.strip().lower() == _OFFLINE:
            await self._links.leave(node_id_of(request.node_id), "it says that it is offline")
        else:
            await self._links.hear(node_id_of(request.node_id))
        return pool.StatusResponse(success=True, message="heard")

    async def report_running_status(self, request: pool.RunningStatusRequest, call: Call) -> pool.RunningStatusResponse:
        """Takes a worker's reading; tells what the task has earned so far, which is nothing unless it runs there.

        Of one that does not, the answer's code says so, for those who would end it.
        """
        node = await self._words.worker(request.node_id, call.caller)
        await self._links.hear(node.registration.id, reading_of(request, node.registration, call.now))
        try:
            placed = await self._words.about(request.task_id, call, request.node_id)
        except NotFoundError:
            call.code = ErrorCode.TASK_NOT_FOUND
            return pool.RunningStatusResponse(success=True, message="heard; no such task runs there", cpt_reward=0)
        if placed.ended:
            call.code = ErrorCode.TASK_NOT_FOUND
        reward = reward_of(placed.work, node.registration.id, call.now)
        return pool.RunningStatusResponse(success=True, message=status_of(placed.work).value, cpt_reward=reward)

    # -- what its tasks write and log ---------------------------------------------------------------------------------

    async def store_output(self, request: pool.StoreOutputRequest, call: Call) -> pool.StatusResponse:
        """Adds to what a task has written."""
        placed = await self._words.about(request.task_id, call)
        return await self._written(placed, log_key(placed.work.spec.id), stored_output(request), call.now)

    async def report_output(self, request: pool.ReportOutputRequest, call: Call) -> pool.StatusResponse:
        """Adds to what a task has written, too."""
        placed = await self._words.about(request.task_id, call, _named(request.node_id))
        return await self._written(placed, log_key(placed.work.spec.id), stored_output(request), call.now)

    async def store_logs(self, request: pool.StoreLogsRequest, call: Call) -> pool.StatusResponse:
        """Adds to what was logged about a task."""
        placed = await self._words.about(request.task_id, call, _named(request.node_id))
        lines = stored_logs(request, call.now).encode()
        return await self._written(placed, foreign_log_key(placed.work.spec.id), lines, call.now)

    async def _written(self, placed: Placed, key: str, data: bytes, now: datetime) -> pool.StatusResponse:
        placed.check_writes(now)
        async with self._turns.turn(key):  # appends to one blob must not overlap
            stored = await self._plane.blobs.size(key) or 0
            if stored + len(data) > self._log_bytes:
                raise ResourceExhaustedError(
                    f"has written {self._log_bytes} bytes, and no more is kept", field="task_id"
                )
            await self._plane.blobs.append(key, data)
        return pool.StatusResponse(success=True, message="stored")

    # -- how they end -------------------------------------------------------------------------------------------------

    async def store_result(self, request: pool.StoreResultRequest, call: Call) -> pool.StatusResponse:
        """Takes the result of a task, which has then completed."""
        return pool.StatusResponse(success=True, message=await self._returned(request, call))

    async def return_task_result(
        self, request: pool.ReturnTaskResultRequest, call: Call
    ) -> pool.ReturnTaskResultResponse:
        """Takes the result of a task, which has then completed."""
        return pool.ReturnTaskResultResponse(success=True, message=await self._returned(request, call))

    async def task_completed(self, request: pool.TaskCompletedRequest, call: Call) -> pool.StatusResponse:
        """Takes the end of a task. What has ended already stays as it is."""
        placed = await self._words.about(request.task_id, call, _named(request.node_id))
        if not placed.ended:
            await self._end(placed, succeeded=request.success)
            return pool.StatusResponse(success=True, message="taken")
        return pool.StatusResponse(success=True, message=f"is {status_of(placed.work).value} already")

    async def _returned(self, request: pool.StoreResultRequest | pool.ReturnTaskResultRequest, call: Call) -> str:
        result = request.result_data
        async with self._turns.turn(f"result of {request.task_id}"):  # what is given out once stays as it is
            placed = await self._words.about(request.task_id, call)
            if placed.ended and not await self._trails(placed, result, call.now):
                return f"is {status_of(placed.work).value} already"
            blobs = self._plane.blobs
            keys = await store_returned(blobs, placed.work, result, unpacked_bytes=self._unpacked_bytes)
            if not placed.ended:
                await self._end(placed, succeeded=True, blobs=keys)
        return f"stored {len(result)} bytes"

    async def _trails(self, placed: Placed, result: bytes, now: datetime) -> bool:
        """Returns whether a result that comes after the end of its work is the first one, and so is kept.

        Raises:
            ConflictError: there is none to come of work that has ended so, or it comes too late.
        """
        work = placed.work
        if result and work.spec.origin.facade == FACADE and (work.result is None or not work.result.blobs):
            placed.check_writes(now)
            return await self._plane.blobs.size(returned_key(work)) is None
        if work.phase is not Phase.SUCCEEDED:
            placed.check_live()
        return False

    async def _end(self, placed: Placed, *, succeeded: bool, blobs: Sequence[str] = ()) -> None:
        work, node_id, epoch = placed.work, placed.node.registration.id, placed.node.epoch
        running = Running(workload_id=work.spec.id, attempt=work.attempt)
        end = end_of(running, node_id, epoch, succeeded=succeeded, blobs=blobs)
        if work.phase is not Phase.PLACED:
            await ask(self._plane, end)
        else:  # its worker was quicker than our telling that it has it; what ran is paid for
            began = ReportPhase(
                node_id=node_id, epoch=epoch, workload_id=work.spec.id, attempt=work.attempt, phase=Phase.RUNNING
            )
            await ask_all(self._plane, (began, end))
        self._links.ended(node_id, work.spec.id, work.attempt)

    # -- what the pool is asked as if it were a worker ----------------------------------------------------------------

    async def execute_task(self, request: pool.ExecuteTaskRequest, call: Call) -> pool.ExecuteTaskResponse:
        """Refuses: the pool decides which worker runs a task, and tasks come to it by another method."""
        _ = request, call
        raise UnsupportedError("the pool runs what is handed to MasterNodeService.UploadTask", field="task_id")

    async def stop_task_execution(
        self, request: pool.StopTaskExecutionRequest, call: Call
    ) -> pool.StopTaskExecutionResponse:
        """Ends a task wherever it runs, for its owner."""
        sees = call.caller.sees
        workload_id = workload_id_of(request.task_id)
        try:
            work: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_id, account=sees))
        except NotFoundError as error:
            raise NotFoundError("no such task", field="task_id") from error
        check_is_task(work)
        if work.phase.terminal:
            raise ConflictError(f"is {status_of(work).value} already", field="task_id")
        await ask(self._plane, StopWorkload(workload_id=workload_id, account=sees))
        return pool.StopTaskExecutionResponse(success=True, message=f"stopped {request.task_id}")


def _named(node_id: str) -> str:
    """Returns the worker that a message names.

    Raises:
        InvalidArgumentError: it names none.
    """
    if not node_id:
        raise InvalidArgumentError("is required", field="node_id")
    return node_id
