"""Tasks to workloads and back: ids, demand, price and status words. Wire units end here.

Source: HiveMind API Documentation, "Task Management API"; where it is silent, its first implementation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never

from arcray.core.blobkeys import key_for, program_key
from arcray.core.errors import ConflictError, InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId, WorkloadId, foreign_id
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.resources import Demand
from arcray.core.tariff import Tariff
from arcray.core.workload import Origin, Phase, Program, RestartPolicy, RestartRule, WorkloadSpec, WorkloadView
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import name, sendable, text, whole
from arcray.facades.hivemind.outputs import output_lines
from arcray.facades.hivemind.refusals import UNKNOWN_STATUS, ErrorCode
from arcray.facades.hivemind.uploads import is_archive
from arcray.facades.hivemind.users import user_id

__all__ = [
    "FACADE",
    "FOREIGN_WORK",
    "GPU_LABEL",
    "LATER_ATTEMPT",
    "OWNED_LABEL",
    "POINTS_PER_CORE",
    "Asked",
    "Status",
    "Upload",
    "asked_of",
    "check_has_result",
    "check_is_task",
    "end_code",
    "gpu_label",
    "poll_answer",
    "status_of",
    "task_status",
    "upload_of",
    "workload_id_of",
]

FACADE: Final = "hivemind"

FOREIGN_WORK: Final = re.compile(r"arcray-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
"""What workers know work of other protocols by; no task has such an id, so their word is about one or the other."""

LATER_ATTEMPT: Final = re.compile(r"(.+)\.arcray-([1-9][0-9]{0,8})", re.DOTALL)
"""What workers know a later attempt by: the id of its work, and a number; no task has such an id either."""

POINTS_PER_CORE: Final = 100
OWNED_LABEL: Final = "hivemind/owned"  # a worker whose owner is paid
GPU_LABEL: Final = "hivemind/gpu"
_ANY_GPU: Final = frozenset({"", "any"})
_POINT_MILLI: Final = CPU_MILLI // POINTS_PER_CORE
_STEP_S: Final = 60
_RETRIED: Final = RestartPolicy(rule=RestartRule.ON_LOSS)
_LOCATION_LIMIT: Final = 256


class Status(StrEnum):
    """How far a task is."""

    PENDING = "PENDING"  # it waits for a node, or its node has not started it
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"  # its owner asked for its end, or could not pay for more
    NOT_FOUND = UNKNOWN_STATUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a task asks of its node.

    Args:
        cpu_score: points; 0 asks for one core.
        gpu_score: a task with one gets a whole GPU, unless it names GPU memory.
        memory_gb, gpu_memory_gb: 2^30 bytes.
        gpu_name: "" is any.
    """

    cpu_score: int = 0
    gpu_score: int = 0
    memory_gb: int = 0
    gpu_memory_gb: int = 0
    gpu_name: str = ""

    @property
    def demand(self) -> Demand:
        """The same in core's units."""
        gpu_memory_bytes = self.gpu_memory_gb * GIB or None
        gpus = 1 if gpu_memory_bytes or self.gpu_score or self.gpu_name else 0
        return Demand(
            cpu_milli=self.cpu_score * _POINT_MILLI or CPU_MILLI,
            memory_bytes=self.memory_gb * GIB,
            gpus=gpus,
            gpu_memory_bytes=gpu_memory_bytes,
        )

    @property
    def price(self) -> int:
        """Credits for each begun minute on a node that a user owns."""
        return max(1, self.cpu_score + self.gpu_score + self.memory_gb + self.gpu_memory_gb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A task that was accepted here, and the blob that has to be stored before it is submitted."""

    spec: WorkloadSpec
    code_key: str
    code: bytes


def workload_id_of(task_id: str, field: str = "task_id") -> WorkloadId:
    """Returns the workload of a task.

    Raises:
        InvalidArgumentError: no task can be called that; names ``field``.
    """
    if FOREIGN_WORK.fullmatch(task_id):
        raise InvalidArgumentError("is what arcray calls work of another protocol", field=field)
    if LATER_ATTEMPT.fullmatch(task_id):
        raise InvalidArgumentError("is what arcray calls a later attempt of a task", field=field)
    # The prefix keeps it from being a UUID, which would be taken as it is and could be another protocol's work.
    return WorkloadId(foreign_id(FACADE, f"task:{name(task_id, field)}"))


def asked_of(request: pool.UploadTaskRequest) -> Asked:
    """Reads what a task asks of its node. Its location is a wish that decides nothing.

    Raises:
        InvalidArgumentError: names the field.
    """
    text(request.location, "location", longest=_LOCATION_LIMIT)
    gpu_name = text(request.gpu_name, "gpu_name", longest=_LOCATION_LIMIT).strip()
    if gpu_name.lower() in _ANY_GPU:
        gpu_name = ""
    elif not gpu_label(gpu_name):
        raise InvalidArgumentError("has no letter or digit of ASCII", field="gpu_name")
    return Asked(
        cpu_score=whole(request.cpu_score, "cpu_score"),
        gpu_score=whole(request.gpu_score, "gpu_score"),
        memory_gb=whole(request.memory_gb, "memory_gb", high=2**20),
        gpu_memory_gb=whole(request.gpu_memory_gb, "gpu_memory_gb", high=2**20),
        gpu_name=gpu_name,
    )


def gpu_label(gpu_name: str) -> str:
    """Returns the name of a GPU as a label may have it: ``RTX 4090`` is ``rtx-4090``; "" where nothing is left."""
    kept = "".join(each if each.isascii() and each.isalnum() else "-" for each in gpu_name.lower())
    return "-".join(filter(None, kept.split("-")))


def upload_of(
    request: pool.UploadTaskRequest,
    *,
    user: AccountId | None,
    registered: bool,
    call_id: str,
    now: datetime,
    house_rate: int,
    unpacked_bytes: int,
    env: tuple[tuple[str, str], ...] = (),
) -> Upload:
    """Returns a task's workload and its code.

    Args:
        user: who calls; None takes the request's word for it.
        registered: whether that user has an account. Who has none cannot pay the owners of nodes, so their tasks stay
            on the pool's own.
        call_id: of this very call, a UUID: the same task id by another call is another task, and is refused. Its code
            has a key of its own, so that neither call writes over or deletes what is the other's.
        house_rate: credits for each begun minute on the pool's own nodes.
        unpacked_bytes: most that an archive may unpack to.
        env: variables besides the task's id.

    Raises:
        InvalidArgumentError, ResourceExhaustedError: name the field.
    """
    workload_id = workload_id_of(request.task_id)
    account = user if user is not None else user_id(request.user_id, "user_id")
    asked = asked_of(request)
    archive = is_archive(request.task_data, unpacked_bytes=unpacked_bytes)
    key = key_for(request.task_data, program_key(workload_id, archive=archive, submission=call_id))
    spec = WorkloadSpec(
        id=workload_id,
        origin=Origin(facade=FACADE, account=account, external_id=request.task_id),
        payload=Program(blob=key, archive=archive, env=(*env, ("TASK_ID", request.task_id))),
        created_at=now,
        name=request.task_id,
        demand=asked.demand,
        selector=((GPU_LABEL, gpu_label(asked.gpu_name)),) if asked.gpu_name else (),
        selector_terms=() if registered else (LabelTerm(key=OWNED_LABEL, operator=LabelOperator.ABSENT),),
        # A key has the rows looked at too: a task that memory has let go of is not written over.
        request_id=f"{FACADE} {request.task_id}",
        request_digest=call_id,
        restart=_RETRIED,
        tariff=Tariff(minute=house_rate, owned_minute=asked.price, step_s=_STEP_S),
    )
    return Upload(spec=spec, code_key=key, code=request.task_data)


def check_is_task(view: WorkloadView) -> None:
    """Refuses work of other protocols, which is no task whatever its id.

    Raises:
        NotFoundError: it is none.
    """
    if view.spec.origin.facade != FACADE:
        raise NotFoundError("no such task", field="task_id")


def status_of(view: WorkloadView) -> Status:
    """Returns how far a task is."""
    match view.phase:
        case Phase.PENDING | Phase.PLACED | Phase.PULLING | Phase.STARTING:
            return Status.PENDING
        case Phase.RUNNING:
            return Status.RUNNING
        case Phase.STOPPING:  # the cluster's own reason for an end is nothing that its owner asked for
            return Status.STOPPED if view.eviction is None else Status.RUNNING
        case Phase.SUCCEEDED:
            return Status.COMPLETED
        case Phase.FAILED | Phase.REJECTED:
            return Status.FAILED
        case Phase.STOPPED:
            return Status.STOPPED
        case _:
            assert_never(view.phase)


def end_code(view: WorkloadView) -> ErrorCode:
    """Returns the document's code of how a task stands: of what ended badly its own, else SUCCESS."""
    match status_of(view):
        case Status.FAILED:
            return ErrorCode.TASK_FAILED
        case Status.STOPPED:
            return ErrorCode.TASK_CANCELLED
        case _:
            return ErrorCode.SUCCESS


def task_status(view: WorkloadView, assigned_node: str) -> pool.TaskStatus:
    """Returns a task as lists show it.

    Args:
        assigned_node: the protocol's id of its node, or "".
    """
    return pool.TaskStatus(
        task_id=view.spec.origin.external_id,
        status=status_of(view).value,
        assigned_node=sendable(assigned_node),
        created_at=_seconds(view.spec.created_at),
        started_at=_seconds(view.started_at),
        completed_at=_seconds(view.finished_at),
        user_id=sendable(view.spec.origin.account),
    )


def poll_answer(view: WorkloadView, log: bytes, waits_for: str = "") -> pool.PollTaskStatusResponse:
    """Returns how far a task is, with the end of its output.

    Args:
        log: the end of what it wrote.
        waits_for: what it waits for, for people, while it is pending.
    """
    status = status_of(view)
    message = waits_for if status is Status.PENDING and waits_for else view.message
    return pool.PollTaskStatusResponse(
        success=True, message=sendable(message), status=status.value, output=output_lines(log)
    )


def check_has_result(view: WorkloadView) -> None:
    """Refuses to give out the result of a task that has not ended.

    Raises:
        ConflictError: it waits or runs.
    """
    if not view.phase.terminal:
        raise ConflictError(f"is {status_of(view).value}; there is no result yet", field="task_id")


def _seconds(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()
