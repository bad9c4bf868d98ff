"""What a device was given to do, once; sans-I/O. The messages are additive: the document's devices get none.

A device is told all that it needs: ``data.program`` or ``data.container``; ``data.command`` and ``data.input`` are for
devices that have programs of their own by these names.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from arcray.core.commands import Running
from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.quantity import MB, MIB
from arcray.core.resources import Demand
from arcray.core.workload import Container, ModelServer, Phase, Program
from arcray.facades.pool.codec import assign_frame, cancel_frame, number, task_members
from arcray.facades.pool.messages import Requirements, Task, TaskComplete
from arcray.facades.pool.nodes import PERCENT_MILLI

__all__ = ["Assignments", "Ended", "Files", "requirements_of", "task_id_of"]

_TYPE: Final = "compute"
_MESSAGE_LIMIT: Final = 4_096
_REMEMBERED: Final = 4_096  # attempts that were given, of which an order may come again


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What of a program lies in the blob store.

    Args:
        code: text of one file, or a zip archive.
        stdin: what it reads; None reads nothing.
    """

    code: bytes
    stdin: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt has ended, by the device's word."""

    work: Running
    phase: Phase
    message: str
    output: str
    exit_code: int | None = None
    refused: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)


def task_id_of(workload_id: WorkloadId, attempt: int) -> str:
    """Returns what an attempt is called on the wire: each is another task."""
    return workload_id if attempt == 1 else f"{workload_id}.{attempt}"


def requirements_of(demand: Demand) -> Requirements:
    """Returns a demand as the wire tells it: 100 is one core."""
    return Requirements(
        cpu=number(demand.cpu_milli / PERCENT_MILLI),
        memory=number(demand.memory_bytes / MIB),
        storage=number(demand.disk_bytes / MB),
        gpu=demand.gpus > 0,
    )


class Assignments:
    """The attempts of one device."""

    def __init__(self) -> None:
        self._given: dict[str, Running] = {}
        self._stopping: set[str] = set()
        self._seen: deque[tuple[WorkloadId, float, int]] = deque(maxlen=_REMEMBERED)

    def __len__(self) -> int:
        return len(self._given)

    def inventory(self) -> Sequence[Running]:
        """Returns the attempts that have not ended."""
        return tuple(self._given.values())

    def take(self, order: StartWorkload) -> bool:
        """Takes an attempt; returns whether it is a new one."""
        key = (order.workload_id, order.created_s, order.attempt)
        if key in self._seen:
            return False
        self._seen.append(key)
        name = task_id_of(order.workload_id, order.attempt)
        self._given[name] = Running(workload_id=order.workload_id, attempt=order.attempt)
        return True

    def has(self, order: StartWorkload) -> bool:
        """Returns whether an attempt is still wanted."""
        name = task_id_of(order.workload_id, order.attempt)
        return name in self._given and name not in self._stopping

    def assign(self, order: StartWorkload, files: Files | None) -> str:
        """Returns the frame that gives an attempt to the device.

        Args:
            files: of a program.

        Raises:
            UnsupportedError: the wire cannot tell of it; names the field.
        """
        name = task_id_of(order.workload_id, order.attempt)
        task = Task(id=name, type=_TYPE, submitter_id=order.owner, requirements=requirements_of(order.demand))
        return assign_frame(name, task_members(task, {"command": order.name, **_data(order, files)}))

    def stop(self, order: StopAttempt) -> str | None:
        """Returns the frame that asks the device to end an attempt; None where it has none such."""
        name = task_id_of(order.workload_id, order.attempt)
        if name not in self._given:
            return None
        self._stopping.add(name)
        return cancel_frame(name)

    def cancel(self, work: Running) -> str:
        """Drops an attempt that nobody wants any more; returns the frame that says so."""
        name = task_id_of(work.workload_id, work.attempt)
        self._drop(name)
        return cancel_frame(name)

    def end(self, work: Running) -> bool:
        """Drops an attempt that has ended some other way; returns whether it was there."""
        return self._drop(task_id_of(work.workload_id, work.attempt)) is not None

    def done(self, result: TaskComplete) -> Ended | None:
        """Takes the device's word of an end; None where it has no such task."""
        stopping = result.task_id in self._stopping
        work = self._drop(result.task_id)
        if work is None:
            return None
        phase = Phase.SUCCEEDED if result.success else Phase.STOPPED if stopping else Phase.FAILED
        message = result.error.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_MESSAGE_LIMIT]  # no database takes a NUL
        return Ended(
            work=work,
            phase=phase,
            message=message,
            output=result.output,
            exit_code=0 if result.exit_code is None and result.success else result.exit_code,
            refused=result.refused and not stopping,
            files=result.files,
        )

    def _drop(self, name: str) -> Running | None:
        self._stopping.discard(name)
        return self._given.pop(name, None)


def _data(order: StartWorkload, files: Files | None) -> Mapping[str, Any]:
    match order.payload:
        case Program() as program:
            assert files is not None, "a program has code"
            return _program(program, files)
        case Container() as container:
            return _container(container)
        case ModelServer():
            raise UnsupportedError("a device of the Resource Pool loads no models", field="payload")


def _program(program: Program, files: Files) -> Mapping[str, Any]:
    told: dict[str, Any] = {"entryPoint": program.entry_point, "args": program.args, "env": dict(program.env)}
    if program.archive:
        told["archive"] = b64encode(files.code).decode()
    else:
        told["source"] = _text(files.code)
    if files.stdin is None:
        return {"input": "", "program": told}
    try:
        return {"input": files.stdin.decode(), "program": told}
    except UnicodeDecodeError:
        return {"input": "", "program": told | {"stdin": b64encode(files.stdin).decode()}}


def _text(code: bytes) -> str:
    try:
        return code.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("is no text", field="payload.code") from error


def _container(container: Container) -> Mapping[str, Any]:
    if container.ports:
        raise UnsupportedError("a device of the Resource Pool cannot tell which ports it publishes", field="ports")
    if container.volumes:
        raise UnsupportedError("a device of the Resource Pool has no directories to give", field="volumes")
    told = {
        "image": container.image,
        "command": container.command,
        "args": container.args,
        "env": dict(container.env),
    }
    return {"input": "", "container": told}
