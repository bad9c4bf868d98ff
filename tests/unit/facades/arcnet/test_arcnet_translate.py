"""Units, statuses and stand-ins: what ArcNet shows of core's nodes and requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from arcray.core.geozones import encode_geohash
from arcray.core.ids import AccountId, ModelId
from arcray.core.model import ModelSlots
from arcray.core.node import EnergySource, GpuTelemetry, Health, Location, NodeView, Telemetry
from arcray.core.quantity import GIB
from arcray.core.queries import ClusterStats, InferenceStats
from arcray.core.workload import Inference, Phase, Priority
from arcray.facades.arcnet import translate
from arcray.facades.arcnet.messages import InferenceRequest, InferenceStatus, NodeStatus
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, an_inference


def reading(*gpus: float, used_gib: int = 0, **fields: Any) -> Telemetry:
    devices = tuple(
        GpuTelemetry(index=index, utilization=load, memory_used_bytes=used_gib * GIB) for index, load in enumerate(gpus)
    )
    return Telemetry(at=T0, gpus=devices, **fields)


def view(telemetry: Telemetry | None = None, **fields: Any) -> NodeView:
    defaults: dict[str, Any] = {
        "registration": a_node(),
        "epoch": 1,
        "health": Health.HEALTHY,
        "joined_at": T0,
        "last_seen": T0,
        "cordoned": False,
        "draining": False,
        "telemetry": telemetry,
        "models": (),
        "workloads": 0,
        "cpu_milli_free": 0,
        "memory_bytes_free": 0,
    }
    return NodeView(**(defaults | fields))


def status(found: NodeView, after_s: float = 0.0) -> NodeStatus:
    return translate.node_of(found, T0 + timedelta(seconds=after_s)).status


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (0.0, NodeStatus.IDLE),
        (0.3, NodeStatus.IDLE),
        (0.31, NodeStatus.ONLINE),
        (0.8, NodeStatus.ONLINE),
        (0.81, NodeStatus.BUSY),
        (1.0, NodeStatus.BUSY),
    ],
)
def test_status_follows_the_load(load: float, expected: NodeStatus) -> None:
    assert status(view(reading(load))) is expected


@pytest.mark.parametrize(
    ("after_s", "expected"),
    [(30.0, NodeStatus.BUSY), (30.1, NodeStatus.STALE), (300.0, NodeStatus.STALE), (300.1, NodeStatus.OFFLINE)],
)
def test_silence_makes_stale_and_then_offline(after_s: float, expected: NodeStatus) -> None:
    assert status(view(reading(0.9)), after_s) is expected


@pytest.mark.parametrize(
    ("health", "expected"),
    [(Health.UNHEALTHY, NodeStatus.STALE), (Health.LOST, NodeStatus.OFFLINE), (Health.GONE, NodeStatus.OFFLINE)],
)
def test_a_shorter_lease_shows_too(health: Health, expected: NodeStatus) -> None:
    assert status(view(reading(0.5), health=health)) is expected


def test_flat_battery_is_offline_unless_on_grid() -> None:
    flat = reading(0.5, battery_level=0.09, energy_source=EnergySource.BATTERY)
    assert status(view(flat)) is NodeStatus.OFFLINE
    assert status(view(replace(flat, battery_level=0.1))) is NodeStatus.ONLINE
    assert status(view(replace(flat, energy_source=EnergySource.GRID))) is NodeStatus.ONLINE
    assert status(view(replace(flat, energy_source=EnergySource.COGEN))) is NodeStatus.OFFLINE


def test_gpu_memory_is_what_is_free_over_all_devices_in_gib() -> None:
    registration = a_node(capacity=a_capacity(gpus=2, gpu_memory_gib=80))
    node = translate.node_of(view(reading(0.2, 0.4, used_gib=30), registration=registration), T0)
    assert node.gpu_count == 2
    assert node.gpu_memory_total_gb == 160.0
    assert node.telemetry.gpu_memory_free_gb == 100.0
    assert node.telemetry.gpu_utilization == 0.3


def test_node_without_a_gpu_shows_its_cpu_load_so_that_it_can_be_routed_to() -> None:
    node = translate.node_of(view(reading(cpu_utilization=0.55)), T0)
    assert node.telemetry.gpu_utilization == 0.55
    assert node.telemetry.gpu_memory_free_gb == 0.0
    assert node.status is NodeStatus.ONLINE


def test_node_that_told_nothing_gets_the_stand_ins() -> None:
    node = translate.node_of(view(None), T0)
    assert node.telemetry.geohash == "s00000"
    assert node.geozone == "UNKNOWN"
    assert node.telemetry.energy_source is EnergySource.GRID
    assert node.telemetry.battery_level == 1.0
    assert node.telemetry.timestamp == T0
    assert node.external_id == a_node().id


def test_zone_and_position_follow_from_a_geohash_alone() -> None:
    node = translate.node_of(view(registration=a_node(location=Location(geohash="9q9hvu"))), T0)
    assert node.geozone == "CAISO"
    assert node.position == pytest.approx((-122.09, 37.42), abs=0.01)
    foreign = translate.node_of(view(registration=a_node(location=Location(geohash="nowhere!"))), T0)
    assert (foreign.telemetry.geohash, foreign.geozone) == ("nowhere!", "UNKNOWN")
    named = translate.node_of(view(registration=a_node(location=Location(geohash="9q9hvu", geozone="LAB"))), T0)
    assert named.geozone == "LAB"


def test_models_are_sorted_by_name() -> None:
    models = (ModelSlots(model_id=ModelId("b"), slots=1), ModelSlots(model_id=ModelId("a"), slots=1))
    assert translate.node_of(view(models=models), T0).telemetry.models_loaded == ("a", "b")


REQUEST = InferenceRequest(
    model_id="m",
    context_window_tokens=8,
    priority=Priority.CRITICAL,
    max_latency_ms=100,
    requester_geozone="ERCOT",
    source=(-122.4194, 37.7749),
    input=b"[1]",
    request_id="r-1",
)


def spec(request: InferenceRequest) -> Any:
    return translate.spec_of(
        request, account=AccountId("ana"), workload_id="w", now=T0, key="k", digest="d", waiting=True
    )


def test_request_becomes_a_workload() -> None:
    found = spec(REQUEST)
    assert (found.origin.facade, found.origin.account, found.origin.external_id) == ("arcnet", "ana", "r-1")
    assert (found.request_id, found.request_digest, found.waiting) == ("k", "d", True)
    assert found.priority is Priority.CRITICAL
    payload = found.payload
    assert (payload.model_id, payload.input, payload.context_window_tokens) == ("m", b"[1]", 8)
    assert payload.geohash == encode_geohash(-122.4194, 37.7749)
    assert translate.requester_position(payload) == (-122.4194, 37.7749)
    assert translate.request_id_of(found) == "r-1"


def test_requester_without_a_position_stands_at_the_centre_of_its_zone() -> None:
    payload = spec(replace(REQUEST, source=None)).payload
    assert payload.longitude is None
    assert payload.geohash == encode_geohash(-97.7, 30.3)
    assert translate.requester_position(payload) == (-97.7, 30.3)
    nowhere = spec(replace(REQUEST, source=None, requester_geozone="MARS")).payload
    assert nowhere.geohash == ""
    assert translate.requester_position(nowhere) is None


def test_request_without_an_id_is_known_by_its_workload() -> None:
    assert translate.request_id_of(spec(replace(REQUEST, request_id=""))) == "w"


def test_every_phase_has_a_status() -> None:
    found = {phase: translate.status_of_phase(phase) for phase in Phase}
    assert {phase for phase, word in found.items() if word is InferenceStatus.FAILED} == {Phase.FAILED, Phase.STOPPED}
    assert set(found.values()) == set(InferenceStatus)


def test_latency_is_in_whole_milliseconds_and_never_negative() -> None:
    assert translate.latency_ms(T0, T0 + timedelta(microseconds=244_600)) == 245
    assert translate.latency_ms(T0, T0 - timedelta(seconds=1)) == 0


def test_stats_count_what_is_not_offline() -> None:
    gpu = a_node(1, capacity=a_capacity(gpus=1, gpu_memory_gib=80), location=Location(geohash="9q9hvu"))
    nodes = (
        view(reading(0.9, used_gib=20, energy_source=EnergySource.COGEN), registration=gpu),
        view(reading(), registration=a_node(2)),
        view(reading(0.9), registration=replace(gpu, id=a_node(3).id), health=Health.LOST),
    )
    counts = InferenceStats(
        dispatched=5, completed=3, failed=1, rejected=2, in_flight=1, latency_ms_p50=4.0, latency_ms_p99=9.5
    )
    found = translate.stats_of(ClusterStats(nodes=nodes, workloads={}, inference=counts, uptime_s=12.3456), T0)
    assert found == {
        "nodes": {"total": 3, "online": 0, "busy": 1, "idle": 1, "stale": 0, "offline": 1},
        "gpus": {"total": 1, "memoryTotalGb": 80.0, "memoryFreeGb": 60.0, "utilization": 0.9},
        "inference": {
            "dispatched": 5,
            "completed": 3,
            "failed": 1,
            "rejected": 2,
            "inFlight": 1,
            "latencyMs": {"p50": 4.0, "p99": 9.5},
        },
        "energy": {"cogen": 1, "grid": 1, "battery": 0},
        "geozones": {"CAISO": 1, "UNKNOWN": 1},
        "uptimeS": 12.346,
    }


def test_position_of_a_request_in_core_is_shown_as_it_came() -> None:
    payload = an_inference(longitude=0.0, latitude=0.0)
    assert isinstance(payload, Inference)
    assert translate.requester_position(payload) == (0.0, 0.0)
    assert translate.model_id_of(a_workload(payload=payload)) == "echo"
