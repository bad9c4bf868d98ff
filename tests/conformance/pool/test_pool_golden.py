"""Frames and bodies as the Resource Pool's document writes them, byte for byte where it fixes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.facades.pool import codec
from arcray.facades.pool.messages import (
    Allocated,
    Allocation,
    Device,
    Heartbeat,
    Misread,
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

AT = datetime(2025, 10, 20, 10, 30, tzinfo=UTC)
RESOURCES: dict[str, Any] = {
    "cpuUsage": 45.5,
    "cpuAvailable": 54.5,
    "cpuCores": 8,
    "memoryUsage": 8192,
    "memoryAvailable": 8192,
    "memoryTotal": 16384,
    "storageUsage": 512000,
    "storageAvailable": 488000,
    "storageTotal": 1000000,
    "hasGPU": True,
    "gpuName": "NVIDIA RTX 3080",
    "gpuUsage": 30.0,
}
HAS = Resources(
    cpu_usage=45.5,
    cpu_available=54.5,
    cpu_cores=8,
    memory_usage=8192,
    memory_available=8192,
    memory_total=16384,
    storage_usage=512000,
    storage_available=488000,
    storage_total=1000000,
    has_gpu=True,
    gpu_name="NVIDIA RTX 3080",
    gpu_usage=30,
)
DEVICE = Device(
    id="device-uuid-1",
    name="Desktop PC",
    platform="windows",
    ip_address="192.168.1.100",
    last_seen=AT,
    resources=HAS,
)
DEVICE_MEMBERS = {
    "id": "device-uuid-1",
    "name": "Desktop PC",
    "platform": "windows",
    "ipAddress": "192.168.1.100",
    "lastSeen": "2025-10-20T10:30:00.000Z",
    "isOnline": True,
    "resources": RESOURCES,
}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def sent(**values: Any) -> str:
    """Returns a frame as the document's clients write it."""
    return json.dumps(values)


def test_the_documents_client_messages_are_read() -> None:
    wanted = {"cpu": 100, "memory": 4096, "storage": 10000, "gpu": True}
    read = codec.read
    assert read(
        sent(type="register", deviceId="unique-device-id", deviceName="My Laptop", platform="macos")
    ) == Register(device_id="unique-device-id", device_name="My Laptop", platform="macos")
    assert read(sent(type="heartbeat", deviceId="unique-device-id")) == Heartbeat(device_id="unique-device-id")
    update = read(sent(type="resource_update", deviceId="unique-device-id", resources=RESOURCES))
    assert isinstance(update, ResourceUpdate)
    assert Resources(**update.changes) == HAS
    assert read(sent(type="resource_request", deviceId="unique-device-id", requirements=wanted)) == ResourceRequest(
        device_id="unique-device-id",
        requirements=Requirements(cpu=100, memory=4096, storage=10000, gpu=True),
        asked=wanted,
    )
    task = {
        "id": "task-uuid",
        "type": "compute",
        "submitterId": "unique-device-id",
        "requirements": {"cpu": 100, "memory": 4096, "storage": 1000, "gpu": False},
        "data": {"command": "process-data", "input": "..."},
    }
    assert read(sent(type="task_submit", task=task)) == TaskSubmit(
        task=Task(
            id="task-uuid",
            type="compute",
            submitter_id="unique-device-id",
            requirements=Requirements(cpu=100, memory=4096, storage=1000),
            command="process-data",
            input="...",
        )
    )


def test_the_additive_messages_are_read() -> None:
    assert codec.read(sent(type="register", capabilities=["task"])) == Register(capabilities=frozenset({"task"}))
    assert codec.read(sent(type="resource_release", allocationId="a")) == ResourceRelease(allocation_id="a")
    done = {"type": "task_complete", "deviceId": "d", "taskId": "t"}
    assert codec.read(sent(**done, result={"success": True, "result": "out"})) == TaskComplete(
        device_id="d", task_id="t", success=True, output="out"
    )
    assert codec.read(sent(**done, result={"success": False, "error": "no"})) == TaskComplete(
        device_id="d", task_id="t", success=False, error="no"
    )
    assert codec.read(sent(type="register", maxTasks=3)) == Register(max_tasks=3)
    assert codec.read(sent(**done, result={"success": False, "refused": True, "exitCode": -9})) == TaskComplete(
        device_id="d", task_id="t", success=False, error="failed", refused=True, exit_code=-9
    )
    assert codec.read(sent(**done, result={"success": True, "files": {"a/b": "/w=="}})) == TaskComplete(
        device_id="d", task_id="t", success=True, files={"a/b": b"\xff"}
    )


def test_the_documents_server_messages_are_written() -> None:
    resources = compact(RESOURCES | {"gpuUsage": 30})  # as JavaScript writes 30.0
    device = compact(DEVICE_MEMBERS | {"resources": RESOURCES | {"gpuUsage": 30}})
    assert codec.devices_frame([DEVICE]) == f'{{"type":"devices","devices":[{device}]}}'
    assert codec.joined_frame(DEVICE) == f'{{"type":"device_joined","device":{device}}}'
    assert codec.left_frame("device-id") == '{"type":"device_left","deviceId":"device-id"}'
    assert (
        codec.update_frame("device-id", HAS)
        == f'{{"type":"resource_update","deviceId":"device-id","resources":{resources}}}'
    )


def test_the_documents_allocation_is_written() -> None:
    allocation = Allocation(
        id="allocation-uuid",
        requesting_device="unique-device-id",
        timestamp=AT,
        requirements={"cpu": 100, "memory": 4096, "storage": 10000, "gpu": True},
        fulfilled=True,
        allocated=(
            Allocated(device_id="device-2", device_name="Desktop PC", cpu=50, memory=2048, storage=5000, gpu=True),
            Allocated(device_id="device-3", device_name="Workstation", cpu=50, memory=2048, storage=5000),
        ),
    )
    assert codec.allocation_frame(allocation) == compact(
        {
            "type": "resource_allocation",
            "allocation": {
                "id": "allocation-uuid",
                "requestingDevice": "unique-device-id",
                "timestamp": "2025-10-20T10:30:00.000Z",
                "requirements": {"cpu": 100, "memory": 4096, "storage": 10000, "gpu": True},
                "fulfilled": True,
                "allocatedDevices": [
                    {
                        "deviceId": "device-2",
                        "deviceName": "Desktop PC",
                        "allocatedCpu": 50,
                        "allocatedMemory": 2048,
                        "allocatedStorage": 5000,
                        "allocatedGpu": True,
                    },
                    {
                        "deviceId": "device-3",
                        "deviceName": "Workstation",
                        "allocatedCpu": 50,
                        "allocatedMemory": 2048,
                        "allocatedStorage": 5000,
                        "allocatedGpu": False,
                    },
                ],
            },
        }
    )


def test_the_documents_task_result_is_written() -> None:
    assert codec.result_frame("task-uuid", result="processed-output") == (
        '{"type":"task_result","taskId":"task-uuid","result":{"success":true,"result":"processed-output"}}'
    )
    assert codec.result_frame("t", error="Insufficient resources") == (
        '{"type":"task_result","taskId":"t","result":{"success":false,"error":"Insufficient resources"}}'
    )


def test_the_documents_bodies_are_written() -> None:
    assert codec.status_members(5) == {
        "service": "Resource Pooling Network",
        "version": "1.0.0",
        "devices": 5,
        "status": "online",
    }
    assert codec.device_members(DEVICE) == DEVICE_MEMBERS
    assert codec.pool_members([DEVICE, DEVICE]) == {
        "totalCpuAvailable": 109,
        "totalCpuCores": 16,
        "totalMemoryAvailable": 16384,
        "totalStorageAvailable": 976000,
        "totalGPUs": 2,
        "devices": 2,
    }


@pytest.mark.parametrize(("told", "kept"), [(8, 8), (8.0, 8), (8.5, 8.5), (0, 0)])
def test_integers_stay_integers(told: float, kept: float) -> None:
    update = codec.read(sent(type="resource_update", deviceId="a", resources={"cpuCores": told}))
    assert isinstance(update, ResourceUpdate)
    found = update.changes["cpu_cores"]
    assert (found, type(found)) == (kept, type(kept))


def test_of_an_update_only_what_it_tells_changes() -> None:
    update = codec.read(sent(type="resource_update", deviceId="a", resources={"cpuUsage": 1, "gpuName": None, "x": 2}))
    assert isinstance(update, ResourceUpdate)
    assert update.changes == {"cpu_usage": 1, "gpu_name": None}


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ("no json", "frame"),
        ("[]", "frame"),
        ('{"type":"heartbeat"}', "deviceId"),
        ('{"type":"heartbeat","deviceId":5}', "deviceId"),
        ('{"type":"register","deviceName":7}', "deviceName"),
        ('{"type":"register","capabilities":"task"}', "capabilities"),
        ('{"type":"resource_update","deviceId":"a"}', "resources"),
        ('{"type":"resource_update","deviceId":"a","resources":{"cpuCores":"8"}}', "resources.cpuCores"),
        ('{"type":"resource_update","deviceId":"a","resources":{"cpuCores":-1}}', "resources.cpuCores"),
        ('{"type":"resource_update","deviceId":"a","resources":{"cpuCores":true}}', "resources.cpuCores"),
        ('{"type":"resource_update","deviceId":"a","resources":{"cpuCores":NaN}}', "frame"),
        ('{"type":"resource_update","deviceId":"a","resources":{"hasGPU":1}}', "resources.hasGPU"),
        ('{"type":"resource_request","deviceId":"a"}', "requirements"),
        ('{"type":"resource_request","deviceId":"a","requirements":{"cpu":"x"}}', "requirements.cpu"),
        ('{"type":"resource_request","deviceId":"a","requirements":{"gpu":1}}', "requirements.gpu"),
        ('{"type":"resource_request","deviceId":"a","requirements":{"x":1e999}}', "requirements"),
        ('{"type":"resource_request","deviceId":"a","requirements":{"x":"\\ud800"}}', "requirements"),
        ('{"type":"heartbeat","deviceId":"a\\u0000"}', "deviceId"),
        ('{"type":"register","deviceName":"a\\nb"}', "deviceName"),
        ('{"type":"task_submit"}', "task"),
        ('{"type":"register","maxTasks":-1}', "maxTasks"),
        ('{"type":"resource_release"}', "allocationId"),
    ],
)
def test_a_malformed_message_names_its_field(frame: str, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        codec.read(frame)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ('{"type":"task_submit","task":{"data":{"input":[1e999]}}}', "task.data.input"),
        ('{"type":"task_submit","task":{"data":{"input":"\\ud800"}}}', "task.data.input"),
        ('{"type":"task_submit","task":{"id":"\\ud800"}}', "task.id"),
        ('{"type":"task_submit","task":{"data":[]}}', "task.data"),
        ('{"type":"task_submit","task":{"data":{"command":1}}}', "task.data.command"),
        ('{"type":"task_complete","taskId":"t","result":{}}', "result.success"),
        ('{"type":"task_complete","taskId":"t","result":{"success":true,"exitCode":"1"}}', "result.exitCode"),
        ('{"type":"task_complete","taskId":"t","result":{"success":false,"refused":1}}', "result.refused"),
        ('{"type":"task_complete","taskId":"t","result":{"success":true,"files":[]}}', "result.files"),
        ('{"type":"task_complete","taskId":"t","result":{"success":true,"files":{"a":"é"}}}', "result.files.a"),
        ('{"type":"task_complete","taskId":"t","result":{"success":true,"files":{"":""}}}', "result.files."),
    ],
)
def test_a_task_or_an_end_that_cannot_be_read_names_its_field(frame: str, field: str) -> None:
    message = codec.read(frame)
    assert isinstance(message, Misread | TaskComplete)
    assert f"{field}: " in (message.reason if isinstance(message, Misread) else message.error)


def test_a_type_that_the_protocol_does_not_have_is_none() -> None:
    assert codec.read('{"type":"authenticate"}') is None
    assert codec.read('{"deviceId":"a"}') is None


def test_a_binary_frame_with_json_is_read() -> None:
    assert codec.read(b'{"type":"heartbeat","deviceId":"a"}') == Heartbeat(device_id="a")


def test_input_that_is_no_text_is_the_json_that_it_was() -> None:
    submit = codec.read(sent(type="task_submit", task={"data": {"input": {"a": [1, 2.5]}}}))
    assert isinstance(submit, TaskSubmit)
    assert submit.task.input == '{"a":[1,2.5]}'


def test_no_message_carries_what_the_protocol_does_not_have() -> None:
    assert set(codec.device_members(DEVICE)["resources"]) == set(RESOURCES)
    assert set(codec.device_members(DEVICE)) == set(DEVICE_MEMBERS)


def test_times_are_cut_to_milliseconds() -> None:
    assert codec.timestamp(AT.replace(microsecond=999_999)) == "2025-10-20T10:30:00.999Z"
