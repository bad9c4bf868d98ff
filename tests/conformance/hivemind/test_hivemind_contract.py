"""The contract: every service, method and message of the HiveMind API Documentation, and bytes as others write them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.contract import taskworker_pb2 as taskworker

ROOT = Path(__file__).parents[3]

SERVICES = """
UserService
  Login(LoginRequest) -> LoginResponse
  Register(RegisterRequest) -> RegisterResponse
  Transfer(TransferRequest) -> TransferResponse
  GetBalance(GetBalanceRequest) -> GetBalanceResponse
NodeManagerService
  RegisterWorkerNode(RegisterWorkerNodeRequest) -> StatusResponse
  HealthCheck(HealthCheckRequest) -> HealthCheckResponse
  ReportStatus(ReportStatusRequest) -> StatusResponse
  GetNodeList(GetNodeListRequest) -> GetNodeListResponse
MasterNodeService
  UploadTask(UploadTaskRequest) -> UploadTaskResponse
  PollTaskStatus(PollTaskStatusRequest) -> PollTaskStatusResponse
  StoreOutput(StoreOutputRequest) -> StatusResponse
  StoreResult(StoreResultRequest) -> StatusResponse
  GetTaskResult(GetTaskResultRequest) -> GetTaskResultResponse
  TaskCompleted(TaskCompletedRequest) -> StatusResponse
  StoreLogs(StoreLogsRequest) -> StatusResponse
  GetTaskLogs(GetTaskLogsRequest) -> GetTaskLogsResponse
  GetAllTasks(GetAllTasksRequest) -> GetAllTasksResponse
  StopTask(StopTaskRequest) -> StopTaskResponse
  ReturnTaskResult(ReturnTaskResultRequest) -> ReturnTaskResultResponse
WorkerNodeService
  ExecuteTask(ExecuteTaskRequest) -> ExecuteTaskResponse
  ReportOutput(ReportOutputRequest) -> StatusResponse
  ReportRunningStatus(RunningStatusRequest) -> RunningStatusResponse
  StopTaskExecution(StopTaskExecutionRequest) -> StopTaskExecutionResponse
"""

TASKWORKER_SERVICES = """
TaskWorkerService
  ExecuteTask(ExecuteTaskRequest) -> ExecuteTaskResponse
  GetTaskStatus(GetTaskStatusRequest) -> GetTaskStatusResponse
  CancelTask(CancelTaskRequest) -> CancelTaskResponse
  GetSystemInfo(GetSystemInfoRequest) -> GetSystemInfoResponse
"""

NODE = (
    "string node_id 1, string hostname 2, int32 cpu_cores 3, int32 memory_gb 4, int32 cpu_score 5, int32 gpu_score 6, "
    "int32 gpu_memory_gb 7, string location 8, int32 port 9, string gpu_name 10, int32 trust_level 11, "
    "double last_heartbeat 12, string docker_status 13"
)
OUTCOME = "bool success 1, string message 2"
ADDED = {
    "UploadTaskRequest": "int32 cpu_score 4, int32 gpu_score 5, int32 gpu_memory_gb 6, string location 7, "
    "string gpu_name 8, int32 memory_gb 10",
    "GetTaskResultRequest": "string token 2",
    "StopTaskRequest": "string token 2",
    "GetAllTasksRequest": "string token 1",
    "ExecuteTaskResponse": "bytes result 3",
}
"""Fields that the document's messages have besides; a client of the document never sees them."""

DOCUMENT = {
    "RegisterRequest": "string username 1, string password 2",
    "RegisterResponse": OUTCOME,
    "LoginRequest": "string username 1, string password 2",
    "LoginResponse": f"{OUTCOME}, string token 3",
    "GetBalanceRequest": "string username 1, string token 2",
    "GetBalanceResponse": f"{OUTCOME}, int64 balance 3",
    "TransferRequest": "string token 1, string receiver_username 2, int64 amount 3",
    "TransferResponse": OUTCOME,
    "RegisterWorkerNodeRequest": NODE,
    "StatusResponse": OUTCOME,
    "HealthCheckRequest": "string node_id 1",
    "HealthCheckResponse": "string status 1, string message 2",
    "ReportStatusRequest": "string node_id 1, string status 2",
    "GetNodeListRequest": "",
    "GetNodeListResponse": "repeated WorkerNodeInfo nodes 1",
    "WorkerNodeInfo": NODE,
    "UploadTaskRequest": "string task_id 1, bytes task_data 2, string user_id 3",
    "UploadTaskResponse": OUTCOME,
    "PollTaskStatusRequest": "string task_id 1",
    "PollTaskStatusResponse": f"{OUTCOME}, string status 3, repeated string output 4",
    "GetTaskResultRequest": "string task_id 1",
    "GetTaskResultResponse": f"{OUTCOME}, bytes result_data 3",
    "StopTaskRequest": "string task_id 1",
    "StopTaskResponse": OUTCOME,
    "GetAllTasksRequest": "",
    "GetAllTasksResponse": "repeated TaskStatus tasks 1",
    "TaskStatus": "string task_id 1, string status 2, string assigned_node 3, double created_at 4, "
    "double started_at 5, double completed_at 6, string user_id 7",
    "ExecuteTaskRequest": "string task_id 1, bytes task_data 2",
    "ExecuteTaskResponse": OUTCOME,
    "RunningStatusRequest": "string node_id 1, string task_id 2, int32 cpu_usage 3, int32 memory_usage 4, "
    "int32 gpu_usage 5, int32 gpu_memory_usage 6",
    "RunningStatusResponse": f"{OUTCOME}, int64 cpt_reward 3",
    "StopTaskExecutionRequest": "string task_id 1",
    "StopTaskExecutionResponse": OUTCOME,
    "UserInfo": "string user_id 1, string username 2, string email 3, int64 created_at 4, UserRole role 5",
}

UNDEFINED = {
    "StoreOutputRequest": "string task_id 1, string output 2",
    "StoreResultRequest": "string task_id 1, bytes result_data 2",
    "TaskCompletedRequest": "string task_id 1, string node_id 2, bool success 3",
    "StoreLogsRequest": "string node_id 1, string task_id 2, string logs 3, int64 timestamp 4",
    "GetTaskLogsRequest": "string task_id 1, string token 2",
    "GetTaskLogsResponse": f"{OUTCOME}, string logs 3",
    "ReturnTaskResultRequest": "string task_id 1, bytes result_data 2",
    "ReturnTaskResultResponse": OUTCOME,
    "ReportOutputRequest": "string node_id 1, string task_id 2, string output 3",
}
"""Messages that the document uses and leaves open."""

TASKWORKER = {
    "ExecuteTaskRequest": "string task_id 1, string task_type 2, bytes task_data 3, map<string, string> parameters 4",
    "ExecuteTaskResponse": f"{OUTCOME}, string task_id 3, bytes result_data 4",
    "GetTaskStatusRequest": "string task_id 1",
    "GetTaskStatusResponse": f"{OUTCOME}, string status 3, float progress 4, bytes result_data 5",
    "CancelTaskRequest": "string task_id 1",
    "CancelTaskResponse": OUTCOME,
    "GetSystemInfoRequest": "",
    "GetSystemInfoResponse": "string hostname 1, NodeCapabilities capabilities 2, ResourceUsage usage 3",
    "NodeCapabilities": "int32 cpu_cores 1, int64 memory_mb 2, bool has_gpu 3, repeated string supported_tasks 4",
    "ResourceUsage": "float cpu_percent 1, float memory_percent 2, float disk_percent 3, float network_mbps 4",
}

_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
}


def written(field: FieldDescriptor) -> str:
    """A field as a document writes it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (_TYPES[each.type] for each in field.message_type.fields)
        return f"map<{key}, {value}> {field.name} {field.number}"
    if field.enum_type is not None:
        kind = field.enum_type.name
    elif field.message_type is not None:
        kind = field.message_type.name
    else:
        kind = _TYPES[field.type]
    repeated = "repeated " if field.is_repeated else ""
    return f"{repeated}{kind} {field.name} {field.number}"


def fields_of(message: Descriptor) -> str:
    return ", ".join(written(field) for field in message.fields)


def methods_of(service: ServiceDescriptor) -> str:
    lines = [f"  {m.name}({m.input_type.name}) -> {m.output_type.name}" for m in service.methods]
    assert not any(m.client_streaming or m.server_streaming for m in service.methods)
    return "\n".join([service.name, *lines])


def services_of(file: FileDescriptor) -> str:
    return "\n" + "\n".join(methods_of(service) for service in file.services_by_name.values()) + "\n"


def test_services_and_methods_are_those_of_the_document() -> None:
    assert services_of(pool.DESCRIPTOR) == SERVICES
    assert sum(len(service.methods) for service in pool.DESCRIPTOR.services_by_name.values()) == 23
    assert services_of(taskworker.DESCRIPTOR) == TASKWORKER_SERVICES


def test_messages_are_those_of_the_document_field_by_field() -> None:
    found = {name: fields_of(message) for name, message in pool.DESCRIPTOR.message_types_by_name.items()}
    wanted = {name: ", ".join(filter(None, (fields, ADDED.get(name)))) for name, fields in DOCUMENT.items()}
    assert found == wanted | UNDEFINED
    messages = taskworker.DESCRIPTOR.message_types_by_name.items()
    assert {name: fields_of(message) for name, message in messages} == TASKWORKER
    roles = pool.DESCRIPTOR.enum_types_by_name["UserRole"]
    assert [(value.name, value.number) for value in roles.values] == [("USER", 0), ("WORKER", 1), ("ADMIN", 2)]


def test_names_are_those_that_clients_are_compiled_with() -> None:
    assert (pool.DESCRIPTOR.name, pool.DESCRIPTOR.package) == ("node_pool/nodepool.proto", "nodepool")
    assert taskworker.DESCRIPTOR.name == "taskworker/protos/taskworker.proto"
    assert taskworker.DESCRIPTOR.package == "taskworker"


FRAMES: list[tuple[Message, bytes]] = [
    (
        pool.LoginRequest(username="testuser", password="password123"),
        b"\x0a\x08testuser\x12\x0bpassword123",
    ),
    (pool.LoginResponse(success=True, message="ok", token="a.b.c"), b"\x08\x01\x12\x02ok\x1a\x05a.b.c"),
    (pool.RegisterResponse(success=False, message="taken"), b"\x12\x05taken"),
    (pool.GetBalanceResponse(success=True, balance=100), b"\x08\x01\x18\x64"),
    (pool.TransferRequest(receiver_username="bo", amount=300), b"\x12\x02bo\x18\xac\x02"),
    (pool.TransferRequest(amount=-1), b"\x18" + b"\xff" * 9 + b"\x01"),
    (
        pool.RegisterWorkerNodeRequest(
            node_id="worker-001",
            hostname="192.168.1.100",
            cpu_cores=8,
            memory_gb=16,
            cpu_score=1000,
            gpu_score=2000,
            gpu_memory_gb=8,
            location="Asia/Taipei",
            port=50052,
            gpu_name="RTX 4090",
            trust_level=100,
            last_heartbeat=1640995200.0,
            docker_status="enabled",
        ),
        (
            b"\x0a\x0aworker-001\x12\x0d192.168.1.100\x18\x08\x20\x10\x28\xe8\x07\x30\xd0\x0f\x38\x08"
            b"\x42\x0bAsia/Taipei\x48\x84\x87\x03\x52\x08RTX 4090\x58\x64"
            b"\x61\x00\x00\x00\x60\xe6\x73\xd8\x41\x6a\x07enabled"
        ),
    ),
    (pool.HealthCheckResponse(status="healthy"), b"\x0a\x07healthy"),
    (pool.GetNodeListRequest(), b""),
    (
        pool.UploadTaskRequest(task_id="task-001", task_data=b"print('Hello, HiveMind!')", user_id="user123"),
        b"\x0a\x08task-001\x12\x19print('Hello, HiveMind!')\x1a\x07user123",
    ),
    (pool.UploadTaskRequest(cpu_score=10, memory_gb=4), b"\x20\x0a\x50\x04"),
    (
        pool.PollTaskStatusResponse(success=True, status="RUNNING", output=["Hello", ""]),
        b"\x08\x01\x1a\x07RUNNING\x22\x05Hello\x22\x00",
    ),
    (
        pool.GetAllTasksResponse(tasks=[pool.TaskStatus(task_id="t", status="PENDING", created_at=1.0)]),
        b"\x0a\x15\x0a\x01t\x12\x07PENDING\x21\x00\x00\x00\x00\x00\x00\xf0\x3f",
    ),
    (
        pool.StoreLogsRequest(node_id="w", task_id="t", logs="x", timestamp=1640995200),
        b"\x0a\x01w\x12\x01t\x1a\x01x\x20\x80\xb3\xbe\x8e\x06",
    ),
    (pool.RunningStatusRequest(node_id="w", cpu_usage=75), b"\x0a\x01w\x18\x4b"),
    (pool.RunningStatusResponse(success=True, cpt_reward=7), b"\x08\x01\x18\x07"),
    (pool.ExecuteTaskRequest(task_id="t", task_data=b"\x00\xff"), b"\x0a\x01t\x12\x02\x00\xff"),
    (
        taskworker.ExecuteTaskRequest(task_id="t", task_type="python", task_data=b"1", parameters={"k": "v"}),
        b"\x0a\x01t\x12\x06python\x1a\x011\x22\x06\x0a\x01k\x12\x01v",
    ),
]


@pytest.mark.parametrize(("message", "frame"), FRAMES, ids=lambda value: type(value).__name__)
def test_messages_are_these_bytes(message: Message, frame: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == frame
    assert type(message).FromString(frame) == message


def test_fields_of_newer_clients_are_accepted() -> None:
    assert pool.PollTaskStatusRequest.FromString(b"\x0a\x01t\xa2\x06\x03new").task_id == "t"


def test_checked_in_python_is_what_the_compiler_writes(tmp_path: Path) -> None:
    """Starts the compiler, which takes half a second."""
    subprocess.run([ROOT / "scripts/protos", Path(sys.executable).parent, tmp_path], check=True)
    kept = Path(pool.__file__).parent
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["nodepool_pb2.py", "nodepool_pb2.pyi", "taskworker_pb2.py", "taskworker_pb2.pyi"]
    assert [name for name in names if (tmp_path / name).read_bytes() != (kept / name).read_bytes()] == []


CLIENT = """
import arcray.facades.hivemind.contract.nodepool_pb2 as ours
from node_pool import nodepool_pb2, nodepool_pb2_grpc
import pickle
assert nodepool_pb2_grpc.UserServiceStub and nodepool_pb2_grpc.WorkerNodeServiceStub
theirs = nodepool_pb2.LoginRequest(username="ana")
assert ours.LoginRequest.FromString(theirs.SerializeToString()).username == "ana"
assert pickle.loads(pickle.dumps(ours.LoginRequest(username="ana"))).username == "ana"
"""


def test_a_client_that_is_compiled_as_node_pool_lives_beside_ours(tmp_path: Path) -> None:
    """Both are in one process, of its own because what it loads stays; starting it takes half a second."""
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-Inode_pool={ROOT / 'protos'}"]
    targets = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "node_pool/nodepool.proto"]
    subprocess.run([*compiler, *targets], check=True)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-W", "error", "-c", CLIENT], env=environment, check=True)
