"""Resource Pool frames and bodies to messages and back: names, order and forms of members. No meaning, no I/O.

Members that the protocol does not have are passed over. A member of the wrong type makes the message malformed; one
that is absent, null or empty has its default.

Source: Resource Pool API Documentation, the examples under "REST API Endpoints" and "WebSocket API".
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.quantity import MAX_QUANTITY
from arcray.facades.pool.messages import (
    Allocated,
    Allocation,
    ClientMessage,
    Device,
    Heartbeat,
    Misread,
    Number,
    Register,
    Requirements,
    ResourceRelease,
    ResourceRequest,
    Resources,
    ResourceUpdate,
    Task,
    TaskComplete,
    TaskSubmit,
)
from arcray.wire.fields import Fields
from arcray.wire.strict_json import dumps, parse

__all__ = [
    "allocation_frame",
    "assign_frame",
    "cancel_frame",
    "device_members",
    "devices_frame",
    "joined_frame",
    "left_frame",
    "number",
    "pool_members",
    "read",
    "read_requirements",
    "result_frame",
    "status_members",
    "task_members",
    "timestamp",
    "update_frame",
]

_ID_LIMIT: Final = 256
_TEXT_LIMIT: Final = 256
_INPUT_LIMIT: Final = 4 << 20
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CAPABILITIES_LIMIT: Final = 32
_FILES_LIMIT: Final = 1_000
_FILE_LIMIT: Final = 16 << 20
_PATH_LIMIT: Final = 4_096
_EXIT_LIMIT: Final = 2**31 - 1
_NUMBERS: Final = {
    "cpuUsage": "cpu_usage",
    "cpuAvailable": "cpu_available",
    "cpuCores": "cpu_cores",
    "memoryUsage": "memory_usage",
    "memoryAvailable": "memory_available",
    "memoryTotal": "memory_total",
    "storageUsage": "storage_usage",
    "storageAvailable": "storage_available",
    "storageTotal": "storage_total",
}


def number(value: Number) -> Number:
    """Returns a number as JavaScript would write it: an integer where it is one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def timestamp(at: datetime) -> str:
    """Returns a UTC time as the protocol writes it: ISO 8601, milliseconds, ``Z``."""
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


# -- what clients say -------------------------------------------------------------------------------------------------


def read(frame: str | bytes) -> ClientMessage | None:  # noqa: PLR0911  one arm per message
    """Reads a frame; None is of a type that the protocol does not have.

    Raises:
        InvalidArgumentError: it is malformed; names the field.
    """
    values = parse(frame, field="frame")
    if not isinstance(values, dict):
        raise InvalidArgumentError("must be an object", field="frame")
    fields = Fields(values)
    match values.get("type"):
        case "register":
            return Register(
                device_id=_id(fields, "deviceId"),
                device_name=_plain(fields, "deviceName"),
                platform=_plain(fields, "platform"),
                capabilities=frozenset(fields.texts("capabilities", most=_CAPABILITIES_LIMIT, longest=_TEXT_LIMIT)),
                max_tasks=fields.integer("maxTasks", 0),
            )
        case "heartbeat":
            return Heartbeat(device_id=_named(fields, "deviceId"))
        case "resource_update":
            changes = _changes(_object(values, "resources"))
            return ResourceUpdate(device_id=_named(fields, "deviceId"), changes=changes)
        case "resource_request":
            asked = _object(values, "requirements")
            requirements = read_requirements(asked, "requirements")
            _written(asked, "requirements")  # as they are, in the answer
            return ResourceRequest(device_id=_id(fields, "deviceId"), requirements=requirements, asked=asked)
        case "resource_release":
            return ResourceRelease(allocation_id=_named(fields, "allocationId"))
        case "task_submit":
            return _submitted(_object(values, "task"))
        case "task_complete":
            return _completed(fields, values)
        case _:
            return None


def _id(fields: Fields, name: str) -> str:
    return _plain(fields, name, longest=_ID_LIMIT)


def _named(fields: Fields, name: str) -> str:
    fields.text(name, shortest=1)
    return _id(fields, name)


def _plain(fields: Fields, name: str, *, longest: int = _TEXT_LIMIT) -> str:
    """Returns text of one line; databases keep no NUL, and logs no ends of lines."""
    text = fields.text(name, "", longest=longest)
    if not text.isprintable() and _CONTROL.search(text):
        raise InvalidArgumentError("has control characters", field=name)
    return text


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise InvalidArgumentError("must be an object" if name in values else "is required", field=name)
    return found


def _changes(told: Mapping[str, Any]) -> Mapping[str, Any]:
    changes: dict[str, Any] = {}
    for name, value in told.items():
        field = _NUMBERS.get(name)
        if field is not None:
            if value is not None:
                # Nearly all are integers, and a message is read for a hundred that are told of it.
                plain = type(value) is int and 0 <= value <= MAX_QUANTITY
                changes[field] = value if plain else _number(value, f"resources.{name}")
        elif name == "hasGPU":
            if value is not None:
                changes["has_gpu"] = _truth(value, "resources.hasGPU")
        elif name == "gpuName":
            changes["gpu_name"] = _plain(Fields(told, "resources"), "gpuName") or None
        elif name == "gpuUsage":
            changes["gpu_usage"] = None if value is None else _number(value, "resources.gpuUsage")
    return changes


def read_requirements(asked: Mapping[str, Any], path: str) -> Requirements:
    """Reads what a task or a request wants.

    Args:
        path: where it stands, for errors.

    Raises:
        InvalidArgumentError: a member has the wrong type or range; names it.
    """
    wanted = {
        name: _number(asked[name], f"{path}.{name}")
        for name in ("cpu", "memory", "storage")
        if asked.get(name) is not None
    }
    gpu = asked.get("gpu")
    return Requirements(**wanted, gpu=False if gpu is None else _truth(gpu, f"{path}.gpu"))


def _submitted(told: Mapping[str, Any]) -> TaskSubmit | Misread:
    task_id = ""
    try:
        task_id = _id(Fields(told, "task"), "id")
        return TaskSubmit(task=_task(told))
    except InvalidArgumentError as error:
        return Misread(task_id=task_id, reason=_told(error))


def _task(told: Mapping[str, Any]) -> Task:
    fields = Fields(told, "task")
    asked = {} if told.get("requirements") is None else _object_in(told, "requirements", "task")
    data = {} if told.get("data") is None else _object_in(told, "data", "task")
    return Task(
        id=_id(fields, "id"),
        type=_plain(fields, "type"),
        submitter_id=_id(fields, "submitterId"),
        requirements=read_requirements(asked, "task.requirements"),
        command=_plain(Fields(data, "task.data"), "command"),
        input=None if data.get("input") is None else _text_of(data["input"], "task.data.input"),
    )


def _completed(fields: Fields, values: Mapping[str, Any]) -> TaskComplete:
    """Reads an end. One that cannot be read is one all the same: whoever waits for it would wait in vain."""
    device_id, task_id = _id(fields, "deviceId"), _named(fields, "taskId")
    try:
        return _complete(device_id, task_id, _object(values, "result"))
    except InvalidArgumentError as error:
        return TaskComplete(
            device_id=device_id,
            task_id=task_id,
            success=False,
            error=f"its device tells no end that can be read: {_told(error)}",
        )


def _told(error: InvalidArgumentError) -> str:
    """Returns what is wrong as text that can be sent and kept: it may name a member whose name cannot."""
    return str(error).encode(errors="replace").decode()


def _complete(device_id: str, task_id: str, result: Mapping[str, Any]) -> TaskComplete:
    success = _truth(result.get("success"), "result.success")
    told = Fields(result, "result")
    refused, exit_code = result.get("refused"), result.get("exitCode")
    return TaskComplete(
        device_id=device_id,
        task_id=task_id,
        success=success,
        output=_text_of(result.get("result"), "result.result"),
        error="" if success else told.text("error", "", longest=_INPUT_LIMIT) or "failed",
        exit_code=None if exit_code is None else told.integer("exitCode", low=-_EXIT_LIMIT, high=_EXIT_LIMIT),
        files={} if result.get("files") is None else _files(_object_in(result, "files", "result")),
        refused=not success and refused is not None and _truth(refused, "result.refused"),
    )


def _files(told: Mapping[str, Any]) -> Mapping[str, bytes]:
    if len(told) > _FILES_LIMIT:
        raise InvalidArgumentError(f"must have at most {_FILES_LIMIT} members", field="result.files")
    files = {}
    for path, value in told.items():
        field = f"result.files.{path[:_TEXT_LIMIT]}"
        Fields({field: path}).text(field, shortest=1, longest=_PATH_LIMIT)
        try:
            files[path] = b64decode(Fields({field: value}).text(field, longest=_FILE_LIMIT), validate=True)
        except ValueError as error:
            raise InvalidArgumentError("is not Base64", field=field) from error
    return files


def _object_in(told: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    found = told[name]
    if not isinstance(found, dict):
        raise InvalidArgumentError("must be an object", field=f"{path}.{name}")
    return found


def _text_of(value: Any, field: str) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else _written(value, field)
    return Fields({field: text}).text(field, longest=_INPUT_LIMIT)


def _written(value: Any, field: str) -> str:
    """Returns a value as JSON; what was read is not always such (``1e999``, half of a surrogate pair)."""
    try:
        return dumps(value).decode()
    except ValueError as error:
        raise InvalidArgumentError("cannot be written as JSON", field=field) from error


def _number(value: Any, field: str) -> Number:
    if type(value) not in (int, float) or not 0 <= value <= MAX_QUANTITY:
        raise InvalidArgumentError(f"must be a number from 0 to {MAX_QUANTITY}", field=field)
    return number(value)


def _truth(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgumentError("must be true or false", field=field)
    return value


# -- what the server says ---------------------------------------------------------------------------------------------


def status_members(devices: int) -> dict[str, Any]:
    """Returns the body of ``GET /``."""
    return {"service": "Resource Pooling Network", "version": "1.0.0", "devices": devices, "status": "online"}


def pool_members(devices: Sequence[Device]) -> dict[str, Any]:
    """Returns what all devices have together."""
    found = [device.resources for device in devices]
    return {
        "totalCpuAvailable": _sum(each.cpu_available for each in found),
        "totalCpuCores": _sum(each.cpu_cores for each in found),
        "totalMemoryAvailable": _sum(each.memory_available for each in found),
        "totalStorageAvailable": _sum(each.storage_available for each in found),
        "totalGPUs": sum(each.has_gpu for each in found),
        "devices": len(found),
    }


def _sum(numbers: Iterable[Number]) -> Number:
    return number(sum(numbers))


def device_members(device: Device) -> dict[str, Any]:
    """Returns a device as lists show it."""
    return {
        "id": device.id,
        "name": device.name,
        "platform": device.platform,
        "ipAddress": device.ip_address,
        "lastSeen": timestamp(device.last_seen),
        "isOnline": device.is_online,
        "resources": _resource_members(device.resources),
    }


def _resource_members(resources: Resources) -> dict[str, Any]:
    return {
        "cpuUsage": resources.cpu_usage,
        "cpuAvailable": resources.cpu_available,
        "cpuCores": resources.cpu_cores,
        "memoryUsage": resources.memory_usage,
        "memoryAvailable": resources.memory_available,
        "memoryTotal": resources.memory_total,
        "storageUsage": resources.storage_usage,
        "storageAvailable": resources.storage_available,
        "storageTotal": resources.storage_total,
        "hasGPU": resources.has_gpu,
        "gpuName": resources.gpu_name,
        "gpuUsage": resources.gpu_usage,
    }


def _frame(kind: str, **values: Any) -> str:
    return dumps({"type": kind, **values}).decode()


def devices_frame(devices: Sequence[Device]) -> str:
    """Returns the frame with the list of devices."""
    return _frame("devices", devices=[device_members(device) for device in devices])


def joined_frame(device: Device) -> str:
    """Returns the frame that a device has joined."""
    return _frame("device_joined", device=device_members(device))


def left_frame(device_id: str) -> str:
    """Returns the frame that a device has left."""
    return _frame("device_left", deviceId=device_id)


def update_frame(device_id: str, resources: Resources) -> str:
    """Returns the frame with all that a device has now."""
    return _frame("resource_update", deviceId=device_id, resources=_resource_members(resources))


def allocation_frame(allocation: Allocation) -> str:
    """Returns the frame with the answer to a request."""
    return _frame(
        "resource_allocation",
        allocation={
            "id": allocation.id,
            "requestingDevice": allocation.requesting_device,
            "timestamp": timestamp(allocation.timestamp),
            "requirements": dict(allocation.requirements),
            "fulfilled": allocation.fulfilled,
            "allocatedDevices": [_allocated_members(each) for each in allocation.allocated],
        },
    )


def _allocated_members(given: Allocated) -> dict[str, Any]:
    return {
        "deviceId": given.device_id,
        "deviceName": given.device_name,
        "allocatedCpu": given.cpu,
        "allocatedMemory": given.memory,
        "allocatedStorage": given.storage,
        "allocatedGpu": given.gpu,
    }


def result_frame(task_id: str, *, result: str | None = None, error: str = "") -> str:
    """Returns the frame with what became of a task.

    Args:
        result: its output; None where it failed.
        error: why it failed.
    """
    outcome = {"success": False, "error": error} if result is None else {"success": True, "result": result}
    return _frame("task_result", taskId=task_id, result=outcome)


def task_members(task: Task, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a task as a device is given it.

    Args:
        data: what to run.
    """
    wanted = task.requirements
    return {
        "id": task.id,
        "type": task.type,
        "submitterId": task.submitter_id,
        "requirements": {"cpu": wanted.cpu, "memory": wanted.memory, "storage": wanted.storage, "gpu": wanted.gpu},
        "data": dict(data),
    }


def assign_frame(task_id: str, task: Mapping[str, Any]) -> str:
    """Returns the frame that gives a device a task."""
    return _frame("task_assign", taskId=task_id, task=dict(task))


def cancel_frame(task_id: str) -> str:
    """Returns the frame that asks a device to end a task that it was given."""
    return _frame("task_cancel", taskId=task_id)
