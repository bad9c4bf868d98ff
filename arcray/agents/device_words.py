"""A device's end of the Resource Pool's wire: what it says as frames, what its server says as values. No I/O.

What is of no concern to a machine that works (who joins, what others have) is read as nothing. A task that cannot be
read is one all the same: whoever hands it out waits for its end.

Source: Resource Pool API Documentation, "WebSocket API"; ``task_assign``, ``task_cancel`` and ``task_complete`` are
additive, and ``arcray.facades.pool.assignments`` has their other end.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from arcray.core.errors import InvalidArgumentError
from arcray.core.workload import Container
from arcray.facades.pool.codec import read_requirements
from arcray.facades.pool.messages import Requirements, TaskComplete
from arcray.wire.fields import Fields
from arcray.wire.strict_json import dumps, parse

__all__ = [
    "FILES_BYTES",
    "Assigned",
    "Cancelled",
    "Code",
    "Left",
    "Listed",
    "Misread",
    "ServerMessage",
    "complete_frame",
    "heartbeat_frame",
    "read",
    "register_frame",
]

FRAME_BYTES: Final = 7 << 20
"""Of a frame that servers read; arcray's read 8 MiB."""

FILES_BYTES: Final = 4 << 20
"""Of result files that one frame takes, together with names and some output."""

_ID_LIMIT: Final = 512
_TEXT_LIMIT: Final = 64 << 20
_LIST_LIMIT: Final = 65_536
_ERROR_LIMIT: Final = 4_096
_CHARACTER_BYTES: Final = 6  # the most that one takes in JSON
_ENVELOPE_BYTES: Final = 16 << 10
_INPUT: Final = "task.data.input"
_NAME: Final = re.compile(r"[^=\0]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A program as it was sent.

    Args:
        code: text of one file, or a zip archive.
        stdin: what it reads; b"" is nothing.
    """

    code: bytes
    archive: bool
    entry_point: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A task is handed to this machine.

    Args:
        owner: who has it done, as far as the server says; "" where it does not.
        command, given: for a machine that has programs of its own by that name.
        work: what is run; None is what ``command`` names here.
    """

    task_id: str
    owner: str
    command: str
    given: str | None
    requirements: Requirements
    work: Code | Container | None


@dataclass(frozen=True, slots=True)
class Misread:
    """A task that is handed to this machine cannot be read, and why."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A task of this machine is to end."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Listed:
    """The answer to a registration."""


@dataclass(frozen=True, slots=True)
class Left:
    """A device has left, or was silent for so long that it is taken for gone."""

    device_id: str


ServerMessage: TypeAlias = Assigned | Misread | Cancelled | Left | Listed


def read(frame: str | bytes) -> ServerMessage | None:
    """Reads a frame of a server; None is of no concern here.

    Raises:
        InvalidArgumentError: it is malformed, and of no task; names the field.
    """
    values = parse(frame, field="frame")
    if not isinstance(values, dict):
        raise InvalidArgumentError("must be an object", field="frame")
    fields = Fields(values)
    match values.get("type"):
        case "devices":
            return Listed()
        case "device_left":
            return Left(fields.text("deviceId"))
        case "task_cancel":
            return Cancelled(_id(fields))
        case "task_assign":
            task_id = _id(fields)
            try:
                return _assigned(task_id, _object(values, "task"))
            except InvalidArgumentError as error:
                return Misread(task_id, str(error).encode(errors="replace").decode())  # it may name what is no text
        case _:
            return None


def _id(fields: Fields) -> str:
    return fields.text("taskId", shortest=1, longest=_ID_LIMIT)


def _assigned(task_id: str, task: Mapping[str, Any]) -> Assigned:
    fields = Fields(task, "task")
    data = _object(task, "data", "task.")
    asked = {} if task.get("requirements") is None else _object(task, "requirements", "task.")
    text = _given(data.get("input"))
    return Assigned(
        task_id=task_id,
        owner=fields.text("submitterId", "", longest=_ID_LIMIT),
        command=Fields(data, "task.data").text("command", "", longest=_ID_LIMIT),
        given=text,
        requirements=read_requirements(asked, "task.requirements"),
        work=_work(data, text),
    )


def _work(data: Mapping[str, Any], given: str | None) -> Code | Container | None:
    if data.get("program") is not None:
        return _code(_object(data, "program", "task.data."), given)
    if data.get("container") is not None:
        told = _object(data, "container", "task.data.")
        fields = Fields(told, "task.data.container")
        return Container(
            image=fields.text("image", shortest=1),
            command=_texts(fields, "command"),
            args=_texts(fields, "args"),
            env=_env(told, "task.data.container.env"),
        )
    return None


def _code(told: Mapping[str, Any], given: str | None) -> Code:
    path = "task.data.program"
    fields = Fields(told, path)
    archive = told.get("archive") is not None
    stdin = _decoded(fields, "stdin") if told.get("stdin") is not None else (given or "").encode()
    return Code(
        code=_decoded(fields, "archive") if archive else fields.text("source", longest=_TEXT_LIMIT).encode(),
        archive=archive,
        entry_point=fields.text("entryPoint", ""),
        args=_texts(fields, "args"),
        env=_env(told, f"{path}.env"),
        stdin=stdin,
    )


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    return fields.texts(name, most=_LIST_LIMIT, longest=_TEXT_LIMIT)


def _env(told: Mapping[str, Any], path: str) -> tuple[tuple[str, str], ...]:
    found = {} if told.get("env") is None else _object(told, "env", path.removesuffix("env"))
    values = Fields(found, path)
    for name in found:
        Fields({path: name}).text(path)
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError("is no name of a variable", field=f"{path}.{name[:_ID_LIMIT]}")
    return tuple((name, values.text(name, longest=_TEXT_LIMIT)) for name in found)


def _decoded(fields: Fields, name: str) -> bytes:
    try:
        return b64decode(fields.text(name, longest=_TEXT_LIMIT), validate=True)
    except ValueError as error:
        raise InvalidArgumentError("is not Base64", field=f"task.data.program.{name}") from error


def _given(value: Any) -> str | None:
    """Returns an input as text; JSON can spell what is none (``1e999``, half of a surrogate pair)."""
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else dumps(value).decode()
    except ValueError as error:
        raise InvalidArgumentError("cannot be written as JSON", field=_INPUT) from error
    return Fields({_INPUT: text}).text(_INPUT, longest=_TEXT_LIMIT)


def _object(values: Mapping[str, Any], name: str, path: str = "") -> Mapping[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise InvalidArgumentError("must be an object" if name in values else "is required", field=f"{path}{name}")
    return found


# -- what this machine says -------------------------------------------------------------------------------------------


def register_frame(device_id: str, *, name: str, platform: str, capabilities: Collection[str], max_tasks: int) -> str:
    """Returns the frame by which this machine joins."""
    return _frame(
        "register",
        deviceId=device_id,
        deviceName=name,
        platform=platform,
        capabilities=sorted(capabilities),
        maxTasks=max_tasks,
    )


def heartbeat_frame(device_id: str) -> str:
    """Returns the frame that this machine lives."""
    return _frame("heartbeat", deviceId=device_id)


def complete_frame(done: TaskComplete) -> str:
    """Returns the frame that a task has ended; of an output that no frame takes, its beginning and a note."""
    result: dict[str, Any] = {"success": done.success}
    if not done.success:
        result |= {"error": done.error[:_ERROR_LIMIT] or "failed"}
        if done.refused:
            result |= {"refused": True}
    if done.exit_code is not None:
        result |= {"exitCode": done.exit_code}
    if done.files:
        result |= {"files": {path: b64encode(data).decode() for path, data in done.files.items()}}
    room = FRAME_BYTES - _ENVELOPE_BYTES - len(dumps(result))
    output = done.output
    if len(output) * _CHARACTER_BYTES > room and len(dumps(output)) > room:
        output = output[: max(0, room) // _CHARACTER_BYTES]
        output += f"\n[cut: the output has {len(done.output)} characters]\n"
    if output or done.success:
        result |= {"result": output}
    return _frame("task_complete", deviceId=done.device_id, taskId=done.task_id, result=result)


def _frame(kind: str, **values: Any) -> str:
    return dumps({"type": kind, **values}).decode()
