"""The pool as if it were a task worker."""

from __future__ import annotations

import pytest

from arcray.core.commands import ReportTelemetry
from arcray.core.errors import InvalidArgumentError
from arcray.core.node import NodeView, Telemetry
from arcray.core.quantity import GIB
from arcray.core.queries import GetNode
from arcray.facades.hivemind import taskworker as translate
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.contract import taskworker_pb2 as taskworker
from arcray.testing.builders import T0, a_node
from arcray.testing.world import World


def test_an_execution_is_an_upload() -> None:
    request = taskworker.ExecuteTaskRequest(task_id="t", task_type="python", task_data=b"1", parameters={"B": "2"})
    assert translate.upload_request_of(request) == pool.UploadTaskRequest(task_id="t", task_data=b"1")
    request.parameters["A"] = "1"
    assert translate.environment_of(request) == (("A", "1"), ("B", "2"))


@pytest.mark.parametrize("name", ["", "1A", "A=B", "A B", "é", "A" * 129])
def test_what_is_no_variable_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="parameters: "):
        translate.environment_of(taskworker.ExecuteTaskRequest(parameters={name: "1"}))


def test_types_that_no_node_runs_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="task_type: must be one of: python"):
        translate.upload_request_of(taskworker.ExecuteTaskRequest(task_type="shell"))
    too_many = taskworker.ExecuteTaskRequest(parameters={f"P{n}": "" for n in range(129)})
    with pytest.raises(InvalidArgumentError, match="may have 128 entries"):
        translate.environment_of(too_many)


def test_the_system_is_all_nodes_together(world: World) -> None:
    assert translate.system_info("pool", []).usage == taskworker.ResourceUsage()
    views = []
    for number in (1, 2):
        epoch = world.attach(a_node(number))
        reading = Telemetry(at=T0, cpu_utilization=0.25 * number, memory_used_bytes=8 * GIB)
        world.handle(ReportTelemetry(node_id=a_node(number).id, epoch=epoch, telemetry=reading))
        found = world.cluster.answer(GetNode(node_id=a_node(number).id), world.now)
        assert isinstance(found, NodeView)
        views.append(found)
    info = translate.system_info("pool", views)
    assert info == taskworker.GetSystemInfoResponse(
        hostname="pool",
        capabilities=taskworker.NodeCapabilities(cpu_cores=16, memory_mb=64 * 1024, supported_tasks=["python"]),
        usage=taskworker.ResourceUsage(cpu_percent=37.5, memory_percent=25.0),
    )
