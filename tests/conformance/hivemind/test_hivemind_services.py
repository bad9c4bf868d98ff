"""Nodes, the task worker, and what every gRPC server says of itself."""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from arcray.core.commands import ReportTelemetry
from arcray.core.node import Telemetry
from arcray.facades.hivemind.contract import nodepool_pb2 as messages
from arcray.facades.hivemind.workers import registration_of
from arcray.testing.builders import a_capacity
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.hivemind_server import SERVICES, HiveMind, hivemind

HEALTH: Final = "NodeManagerService/HealthCheck"
NODES: Final = "NodeManagerService/GetNodeList"
EXECUTE: Final = "TaskWorkerService/ExecuteTask"
STATUS: Final = "TaskWorkerService/GetTaskStatus"
CANCEL: Final = "TaskWorkerService/CancelTask"
INFO: Final = "TaskWorkerService/GetSystemInfo"
SERVED: Final = {"UserService", "NodeManagerService", "MasterNodeService", "WorkerNodeService", "TaskWorkerService"}

WORKER: Final = messages.RegisterWorkerNodeRequest(
    node_id="worker-001", hostname="192.168.1.100", cpu_cores=8, memory_gb=16, cpu_score=1000, gpu_score=2000,
    gpu_memory_gb=8, location="Asia/Taipei", port=50052, gpu_name="RTX 4090", trust_level=100,
    last_heartbeat=1640995200.0, docker_status="enabled",
)  # fmt: skip


def a_worker() -> SimulatedNode:
    """The document's worker, as it stands once it has registered; what it says of itself is kept in its labels."""
    found = registration_of(WORKER, owner=None)
    return SimulatedNode(
        "worker-001", id=found.id, facade=found.facade, external_id=found.external_id, labels=found.labels,
        capacity=found.capacity, hostname=found.hostname, lease=found.lease, owner=None,
    )  # fmt: skip


# -- nodes -------------------------------------------------------------------------------------------------------------


async def test_a_worker_that_was_heard_of_is_healthy() -> None:
    async with hivemind(nodes=[a_worker()]) as pool:
        found = await pool.answer(HEALTH, node_id="worker-001")
        assert (found.message.status, found.code) == ("healthy", 0)


async def test_a_worker_that_left_is_offline_and_an_unknown_one_is_not_found() -> None:
    async with hivemind(nodes=[a_worker()]) as pool:
        await pool.cluster.nodes[0].detach()
        gone = await pool.answer(HEALTH, node_id="worker-001")
        unknown = await pool.answer(HEALTH, node_id="worker-002")
        assert (gone.message.status, gone.code) == ("offline", 2002)
        assert (unknown.message.status, unknown.code) == ("not_found", 2001)
        assert list((await pool.call(NODES)).nodes) == []


async def test_a_health_check_without_a_node_is_refused_by_a_status_that_names_the_field() -> None:
    async with hivemind() as pool:
        found = await pool.answer(HEALTH)
        assert (found.status, found.core_code) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert found.details.startswith("node_id: ")


async def test_the_list_shows_workers_as_they_registered_and_when_they_were_heard_of() -> None:
    async with hivemind(nodes=[a_worker(), SimulatedNode("ray-1")]) as pool:
        (shown,) = (await pool.call(NODES)).nodes
        wanted = messages.WorkerNodeInfo.FromString(WORKER.SerializeToString())
        assert shown.last_heartbeat > wanted.last_heartbeat
        wanted.last_heartbeat = shown.last_heartbeat
        assert shown == wanted


async def test_the_list_shows_other_nodes_where_the_operator_wants_that() -> None:
    async with hivemind(nodes=[a_worker(), SimulatedNode("ray-1")], show_cluster_nodes=True) as pool:
        assert [node.node_id for node in (await pool.call(NODES)).nodes] == ["worker-001", "ray-1"]


async def test_a_list_of_more_than_a_page_is_whole() -> None:
    """Has 1,001 nodes join, which takes a second."""
    async with hivemind(nodes=[], show_cluster_nodes=True) as pool:
        for number in range(1_001):
            await pool.cluster.attach(SimulatedNode(f"n-{number}"))
        assert len((await pool.call(NODES)).nodes) == 1_001


# -- the task worker ---------------------------------------------------------------------------------------------------


async def executed(pool: HiveMind, task_id: str, **fields: Any) -> Any:
    return await pool.call(EXECUTE, **({"task_id": task_id, "task_type": "python", "task_data": b"print(1)"} | fields))


async def test_a_task_that_is_executed_runs_with_its_parameters() -> None:
    ran: list[dict[str, str]] = []

    def script(order: Any) -> Script:
        ran.append(dict(order.payload.env))
        return Script()

    async with hivemind(nodes=[SimulatedNode(script=script)]) as pool:
        answer = await executed(pool, "t", parameters={"EPOCHS": "3"})
        assert (answer.success, answer.task_id) == (True, "t")
        await pool.ended("t")
        found = await pool.call(STATUS, task_id="t")
        assert (found.success, found.status, found.progress) == (True, "COMPLETED", 1.0)
        assert found.result_data.startswith(b"PK")
        assert ran == [{"EPOCHS": "3", "TASK_ID": "t"}]
        assert (await pool.call("MasterNodeService/PollTaskStatus", task_id="t")).status == "COMPLETED"


async def test_an_execution_that_is_wrong_is_refused_by_the_name_of_its_field() -> None:
    async with hivemind() as pool:
        for fields, field in (
            ({"task_type": "java"}, "task_type"),
            ({"task_data": b""}, "task_data"),
            ({"parameters": {"a b": "x"}}, "parameters"),
            ({"task_id": ""}, "task_id"),
        ):
            answer = await executed(pool, **({"task_id": "t"} | fields))
            assert not answer.success
            assert answer.message.startswith(f"{field}: "), answer.message


async def test_a_task_is_cancelled_once_and_an_unknown_one_is_not_found() -> None:
    async with hivemind(nodes=[]) as pool:
        await executed(pool, "t")
        assert (await pool.call(CANCEL, task_id="t")).success
        again, unknown = await pool.answer(CANCEL, task_id="t"), await pool.answer(STATUS, task_id="u")
        assert (again.message.success, again.core_code) == (False, "CONFLICT")
        assert (unknown.message.success, unknown.message.status, unknown.code) == (False, "NOT_FOUND", 3001)
        stopped = await pool.answer(STATUS, task_id="t")
        assert (stopped.message.status, stopped.message.result_data, stopped.code) == ("STOPPED", b"", 3003)


async def test_one_users_execution_is_not_there_for_another() -> None:
    async with hivemind(nodes=[]) as pool:
        ana, bo = await pool.user("ana"), await pool.user("bo")
        await pool.call(EXECUTE, token=ana, task_id="t", task_data=b"print(1)")
        for method in (STATUS, CANCEL):
            assert (await pool.answer(method, token=bo, task_id="t")).code == 3001
        assert (await pool.call(CANCEL, token=ana, task_id="t")).success


async def test_system_info_is_of_the_whole_pool() -> None:
    nodes = [SimulatedNode(f"n-{number}", capacity=a_capacity(gpus=number)) for number in range(2)]
    async with hivemind(nodes=nodes) as pool:
        telemetry = Telemetry(at=pool.cluster.clock.now(), cpu_utilization=0.5)
        await pool.cluster.ask(ReportTelemetry(node_id=nodes[0].id, epoch=nodes[0].epoch, telemetry=telemetry))
        found = await pool.call(INFO)
        assert found.hostname
        assert (found.capabilities.cpu_cores, found.capabilities.memory_mb) == (16, 64 * 1024)
        assert found.capabilities.has_gpu
        assert list(found.capabilities.supported_tasks) == ["python"]
        assert found.usage.cpu_percent > 0


# -- the server --------------------------------------------------------------------------------------------------------


async def test_reflection_lists_the_services_and_health_answers_for_each() -> None:
    async with hivemind() as pool:
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(pool.channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        listed = [each async for each in reflection.ServerReflectionInfo(iter(asked))]
        names = {service.name for service in listed[0].list_services_response.service}
        wanted = {SERVICES[name].full_name for name in SERVED}
        assert wanted <= names
        health: Any = health_pb2_grpc.HealthStub(pool.channel)
        for name in ("", *wanted):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_describes_the_contract() -> None:
    async with hivemind() as pool:
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(pool.channel)
        asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol="nodepool.MasterNodeService")]
        (found,) = [each async for each in reflection.ServerReflectionInfo(iter(asked))]
        assert found.file_descriptor_response.file_descriptor_proto == [messages.DESCRIPTOR.serialized_pb]


async def test_bytes_that_are_no_message_are_the_senders_mistake() -> None:
    async with hivemind() as pool:
        answered = await pool.send("UserService/Login", b"\xff\xff")
        assert (answered.message.success, answered.core_code) == (False, "INVALID_ARGUMENT")
        assert answered.message.message == "message: is no LoginRequest"
        refused = await pool.send(HEALTH, b"\x0a\x02\xff\xfe")  # a text that is no UTF-8
        assert (refused.status, refused.details) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "message: is no HealthCheckRequest",
        )
