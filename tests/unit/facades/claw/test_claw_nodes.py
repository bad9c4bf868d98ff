"""Nodes of both dialects are nodes of the pool; what they tell is bounded and named where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.core.node import GpuTelemetry, Health, NodeView
from arcray.core.quantity import GIB, MIB
from arcray.core.resources import Gpu
from arcray.facades.claw.nodes import LEASE, check_is_claw, node_id_of, reading_of, registration_of
from arcray.testing.builders import T0, a_node

NODE = claw.NodeId("550e8400-e29b-41d4-a716-446655440000")
AT = claw.Timestamp.of(T0 - timedelta(days=1))


def gpu(index: int, **members: Any) -> claw.GpuCapability:
    defaults: dict[str, Any] = {
        "index": index, "name": "NVIDIA H100", "vram_mb": 81920, "compute_capability": "9.0", "driver_version": "1",
    }  # fmt: skip
    return claw.GpuCapability(**(defaults | members))


def register(**capabilities: Any) -> claw.Register:
    found = claw.NodeCapabilities(**({"max_concurrent_workloads": 16} | capabilities))
    return claw.Register(node_id=NODE, name="h100-cluster-01", capabilities=found, protocol_version=1)


def original_register(**capabilities: Any) -> original.Register:
    found = original.NodeCapabilities(**({"memory_mib": 16384, "cpu_cores": 8} | capabilities))
    return original.Register(node_id=NODE, name="gpu-1", capabilities=found, protocol_version=1)


def test_a_node_is_called_as_it_says_and_runs_containers() -> None:
    found = registration_of(register(supported_runtimes=("docker", "containerd")), address="gateway-1")
    assert (str(found.id), found.external_id, found.name) == (str(NODE), str(NODE), "h100-cluster-01")
    assert (found.facade, found.driver, found.address, found.lease) == ("claw", "gateway", "gateway-1", LEASE)
    assert (found.capabilities.containers, found.capabilities.programs) == (True, False)
    assert found.labels == {"claw/runtimes": "docker,containerd"}
    assert type(found.id) is str


def test_its_lease_is_that_of_the_protocol() -> None:
    assert (LEASE.unhealthy_after_s, LEASE.lost_after_s) == (60.0, 150.0)


def test_a_node_that_runs_nothing_at_a_time_is_given_nothing() -> None:
    assert registration_of(register(max_concurrent_workloads=0)).max_workloads == 0


def test_a_node_is_given_as_many_at_a_time_as_it_says() -> None:
    assert registration_of(register(max_concurrent_workloads=16)).max_workloads == 16


def test_what_the_document_does_not_ask_of_a_node_is_its_most() -> None:
    capacity = registration_of(register()).capacity
    assert (capacity.cpu_milli, capacity.memory_bytes, capacity.gpus) == (1_024_000, 4096 * GIB, ())


def test_gpus_are_those_that_are_listed_in_order() -> None:
    found = registration_of(register(gpu_count=2, gpus=(gpu(3), gpu(1, vram_mb=40960, name="A100"))))
    assert found.capacity.gpus == (
        Gpu(index=1, memory_bytes=40 * GIB, name="A100"),
        Gpu(index=3, memory_bytes=80 * GIB, name="NVIDIA H100"),
    )


def test_gpus_that_are_counted_and_not_listed_are_like_the_last_that_is() -> None:
    found = registration_of(register(total_vram_mb=81920, gpu_count=8, gpus=(gpu(0),)))
    assert [each.index for each in found.capacity.gpus] == list(range(8))
    assert {(each.memory_bytes, each.name) for each in found.capacity.gpus} == {(80 * GIB, "NVIDIA H100")}
    unlisted = registration_of(register(total_vram_mb=81920, gpu_count=2)).capacity.gpus
    assert unlisted == (Gpu(index=0, memory_bytes=40 * GIB), Gpu(index=1, memory_bytes=40 * GIB))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (replace(register(), name=""), "name"),
        (replace(register(), name="x" * 129), "name"),
        (replace(register(), name="a\0"), "name"),
        (register(gpu_count=65), "capabilities.gpu_count"),
        (register(gpus=tuple(map(gpu, range(65)))), "capabilities.gpus"),
        (register(gpus=(gpu(0), gpu(0))), "capabilities.gpus"),
        (register(gpus=(gpu(0), gpu(1, vram_mb=2**63))), "capabilities.gpus.1.vram_mb"),
        (register(gpus=(gpu(0, name="x\n"),)), "capabilities.gpus.0.name"),
        (register(total_vram_mb=2**64 - 1), "capabilities.total_vram_mb"),
        (register(supported_runtimes=("d",) * 33), "capabilities.supported_runtimes"),
        (register(supported_runtimes=("\0",)), "capabilities.supported_runtimes"),
        (original_register(memory_mib=2**60), "capabilities.memory_mib"),
        (original_register(labels=(("", "x"),)), "capabilities.labels"),
        (original_register(labels=(("a", "\0"),)), "capabilities.labels"),
        (original_register(runtimes=("\0",)), "capabilities.runtimes"),
    ],
)
def test_what_no_node_can_have_is_refused_by_name(changed: claw.Register | original.Register, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        registration_of(changed)
    assert refusal.value.field == field


def test_a_node_of_the_first_implementation_tells_of_its_processors_and_memory() -> None:
    gpus = (original.GpuCapability(index=0, name="H100", memory_mib=81920, uuid="GPU-1"),)
    found = registration_of(original_register(gpus=gpus, labels=(("zone", "a"),), runtimes=("docker",)))
    assert (found.capacity.cpu_milli, found.capacity.memory_bytes) == (8000, 16 * GIB)
    assert found.capacity.gpus == (Gpu(index=0, memory_bytes=80 * GIB, uuid="GPU-1", name="H100"),)
    assert found.labels == {"zone": "a", "claw/runtimes": "docker"}
    assert found.capabilities.containers


def test_a_node_does_not_take_the_place_of_another_protocols() -> None:
    def view(facade: str) -> NodeView:
        return NodeView(
            registration=a_node(facade=facade), epoch=1, health=Health.HEALTHY, joined_at=T0, last_seen=T0,
            cordoned=False, draining=False, telemetry=None, models=(), workloads=0, cpu_milli_free=0,
            memory_bytes_free=0,
        )  # fmt: skip

    check_is_claw(None)
    check_is_claw(view("claw"))
    with pytest.raises(ConflictError, match="node_id: is the id of a node of another protocol"):
        check_is_claw(view("ray"))


def test_ids_of_nodes_are_their_own() -> None:
    assert str(node_id_of(NODE)) == str(NODE)


# -- readings ----------------------------------------------------------------------------------------------------------


def reading(index: int, **members: Any) -> claw.GpuMetricsProto:
    defaults: dict[str, Any] = {
        "index": index, "utilization_percent": 75, "memory_used_mb": 40960, "memory_total_mb": 81920,
        "temperature_celsius": 65, "power_watts": 300,
    }  # fmt: skip
    return claw.GpuMetricsProto(**(defaults | members))


def test_a_reading_is_of_the_gpus_that_the_node_has_and_of_now() -> None:
    node = registration_of(register(gpus=(gpu(0), gpu(1))))
    told = claw.Metrics(node_id=NODE, gpu_metrics=(reading(1), reading(0), reading(7)), timestamp=AT)
    found = reading_of(told, node, T0)
    assert found.at == T0
    assert [each.index for each in found.gpus] == [0, 1]
    assert found.gpus[0] == GpuTelemetry(
        index=0, utilization=0.75, memory_used_bytes=40 * GIB, temperature_c=65, power_w=300.0
    )


def test_more_than_there_can_be_is_cut() -> None:
    node = registration_of(register(gpus=(gpu(0),)))
    wild = reading(0, utilization_percent=2**32 - 1, memory_used_mb=2**64 - 1)
    (found,) = reading_of(claw.Metrics(node_id=NODE, gpu_metrics=(wild,), timestamp=AT), node, T0).gpus
    assert (found.utilization, found.memory_used_bytes) == (1.0, 80 * GIB)


def test_a_reading_of_the_first_implementation_may_know_no_watts() -> None:
    gpus = (original.GpuCapability(index=0, name="H100", memory_mib=81920, uuid="GPU-1"),)
    told = original.GpuMetricsProto(
        index=0, utilization_percent=5, memory_used_mib=1, memory_total_mib=2, temperature_celsius=30
    )
    found = reading_of(
        original.Metrics(node_id=NODE, gpu_metrics=(told,), timestamp=AT),
        registration_of(original_register(gpus=gpus)),
        T0,
    )
    assert found.gpus == (
        GpuTelemetry(index=0, utilization=0.05, memory_used_bytes=MIB, temperature_c=30, power_w=None),
    )
