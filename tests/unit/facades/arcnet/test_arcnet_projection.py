"""Events become frames: one each, with names and positions that events do not carry."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.ids import AccountId, ModelId
from arcray.core.model import ModelSlots
from arcray.core.node import EnergySource, Health, Location, NodeView, Telemetry
from arcray.core.resources import Allocation
from arcray.core.workload import Origin, Phase, Result, WorkloadSpec
from arcray.facades.arcnet.projection import TelemetryProjection
from arcray.testing.builders import T0, a_container, a_model, a_node, a_workload, an_inference, node_id

NODE = a_node(1, location=Location(geohash="9q9hvu"))
LATER = T0 + timedelta(seconds=5)


def view(**fields: Any) -> NodeView:
    defaults: dict[str, Any] = {
        "registration": NODE,
        "epoch": 1,
        "health": Health.HEALTHY,
        "joined_at": T0,
        "last_seen": T0,
        "cordoned": False,
        "draining": False,
        "telemetry": None,
        "models": (),
        "workloads": 0,
        "cpu_milli_free": 0,
        "memory_bytes_free": 0,
    }
    return NodeView(**(defaults | fields))


def request(**fields: Any) -> WorkloadSpec:
    origin = Origin(facade="arcnet", account=AccountId("local"), external_id="r-1")
    return a_workload(payload=an_inference(**fields), origin=origin, waiting=True)


@pytest.fixture
def projection() -> TelemetryProjection:
    found = TelemetryProjection()
    found.reset([view()])
    return found


def frames(projection: TelemetryProjection, *events: ev.Event) -> list[dict[str, Any]]:
    return [json.loads(frame.text) for event in events for frame in projection.apply(event)]


def placed(spec: WorkloadSpec, attempt: int = 1, number: int = 1) -> ev.WorkloadPlaced:
    return ev.WorkloadPlaced(
        workload_id=spec.id,
        attempt=attempt,
        node_id=node_id(number),
        allocation=Allocation(),
        durable=False,
        at=T0,
    )


def running(spec: WorkloadSpec) -> ev.WorkloadPhaseChanged:
    return ev.WorkloadPhaseChanged(workload_id=spec.id, attempt=1, phase=Phase.RUNNING, durable=False, at=T0)


def finished(request: WorkloadSpec, phase: Phase, at: datetime = T0, **fields: Any) -> ev.WorkloadFinished:
    defaults: dict[str, Any] = {
        "workload_id": request.id,
        "attempt": 1,
        "phase": phase,
        "message": "",
        "result": Result(),
        "node_id": node_id(1),
        "placed_at": T0,
        "started_at": T0,
        "at": at,
        "spec": request if request.waiting else None,
    }
    return ev.WorkloadFinished(**(defaults | fields))


def test_request_is_told_from_dispatch_to_completion(projection: TelemetryProjection) -> None:
    spec = request(longitude=-122.4, latitude=37.7)
    done = finished(spec, Phase.SUCCEEDED, T0 + timedelta(milliseconds=245))
    found = frames(projection, ev.WorkloadSubmitted(spec=spec, at=T0), placed(spec), running(spec), done)
    assert [frame["status"] for frame in found] == ["dispatched", "processing", "completed"]
    assert [frame.get("latencyMs") for frame in found] == [None, None, 245]
    for frame in found:
        assert frame["requestId"] == "r-1"
        assert frame["targetNodeId"] == NODE.id
        assert frame["source"] == [-122.4, 37.7]
        assert frame["modelId"] == "echo"


def test_failed_request_has_no_latency(projection: TelemetryProjection) -> None:
    for phase in (Phase.FAILED, Phase.STOPPED):
        (frame,) = frames(projection, finished(request(), phase))
        assert frame["status"] == "failed"
        assert "latencyMs" not in frame


def test_rejected_request_has_no_target(projection: TelemetryProjection) -> None:
    (frame,) = frames(projection, finished(request(requester_geozone="ERCOT"), Phase.REJECTED, node_id=None))
    assert (frame["status"], frame["targetNodeId"], frame["source"]) == ("rejected", "", [-97.7, 30.3])


def test_requester_of_whom_nothing_is_known_stands_where_its_target_does(projection: TelemetryProjection) -> None:
    (frame,) = frames(projection, finished(request(), Phase.SUCCEEDED))
    assert frame["source"] == pytest.approx([-122.09, 37.42], abs=0.01)
    (rejected,) = frames(projection, finished(request(), Phase.REJECTED, node_id=None))
    assert rejected["source"] == [0.0, 0.0]


def test_retry_on_another_node_is_another_dispatch(projection: TelemetryProjection) -> None:
    spec = request()
    requeued = ev.WorkloadRequeued(
        workload_id=spec.id, attempt=1, reason="", restart=False, not_before=T0, durable=False, at=T0
    )
    found = frames(
        projection,
        ev.WorkloadSubmitted(spec=spec, at=T0),
        placed(spec),
        requeued,
        placed(spec, 2, number=2),
        running(spec),
    )
    assert [(frame["status"], frame["targetNodeId"]) for frame in found] == [
        ("dispatched", node_id(1)),
        ("dispatched", node_id(2)),
        ("processing", node_id(2)),
    ]


def test_end_of_a_durable_request_of_before_is_looked_up(projection: TelemetryProjection) -> None:
    spec = replace(request(), waiting=False)
    end = finished(spec, Phase.SUCCEEDED)
    assert projection.unknown(end) == spec.id
    assert frames(projection, end) == []
    projection.learn(spec)
    assert projection.unknown(end) is None
    assert [frame["status"] for frame in frames(projection, end)] == ["completed"]
    assert projection.unknown(finished(request(), Phase.SUCCEEDED)) is None


def test_requests_that_never_end_are_forgotten_at_last() -> None:
    projection = TelemetryProjection(requests_kept=2)
    specs = [replace(request(), id=a_workload(number).id) for number in range(3)]
    for spec in specs:
        projection.learn(spec)
    assert [len(frames(projection, placed(spec))) for spec in specs] == [0, 1, 1]


def test_telemetry_updates_its_node_and_names_its_zone(projection: TelemetryProjection) -> None:
    telemetry = Telemetry(at=LATER, cpu_utilization=0.42, energy_source=EnergySource.COGEN, battery_level=0.87)
    (frame,) = projection.apply(ev.TelemetryUpdated(node_id=NODE.id, telemetry=telemetry, at=LATER))
    assert frame.geozone == "CAISO"
    assert json.loads(frame.text)["node"] == {
        "id": NODE.id,
        "geohash": "9q9hvu",
        "energySource": "cogen",
        "batteryLevel": 0.87,
        "gpuUtilization": 0.42,
        "gpuMemoryFreeGb": 0.0,
        "modelsLoaded": [],
        "timestamp": "2026-01-01T00:00:05Z",
    }
    assert [snapshot.text for snapshot in projection.snapshot()] == [frame.text]


def test_sign_of_life_is_no_frame(projection: TelemetryProjection) -> None:
    assert frames(projection, ev.TelemetryUpdated(node_id=NODE.id, telemetry=None, at=LATER)) == []
    assert frames(projection, ev.TelemetryUpdated(node_id=node_id(9), telemetry=Telemetry(at=T0), at=LATER)) == []


def test_loaded_models_are_told_when_they_change(projection: TelemetryProjection) -> None:
    changed = ev.ModelsChanged(node_id=NODE.id, models=(ModelSlots(model_id=ModelId("digits"), slots=4),), at=LATER)
    (frame,) = frames(projection, changed)
    assert frame["node"]["modelsLoaded"] == ["digits"]
    assert frames(projection, changed) == []


def notice(projection: TelemetryProjection, event: ev.Event) -> tuple[Any, ...]:
    (frame,) = projection.apply(event)
    assert frame.geozone is None
    body = json.loads(frame.text)
    assert body["type"] == "system"
    return body["severity"], body["message"], body.get("details"), body["nodeId"]


def test_fate_of_nodes_is_noticed(projection: TelemetryProjection) -> None:
    joined = ev.NodeAttached(registration=a_node(2), epoch=1, at=LATER)
    assert notice(projection, joined) == ("success", "Node node-2 joined", None, node_id(2))
    lost = ev.NodeHealthChanged(node_id=NODE.id, health=Health.LOST, at=LATER)
    assert notice(projection, lost) == ("error", "Node node-1 was lost", None, NODE.id)
    drained = ev.NodeSchedulingChanged(node_id=node_id(2), cordoned=True, at=LATER)
    assert notice(projection, drained) == ("info", "Node node-2 was drained", None, node_id(2))
    left = ev.NodeDetached(node_id=node_id(2), reason="upgrade", at=LATER)
    assert notice(projection, left) == ("info", "Node node-2 left", {"reason": "upgrade"}, node_id(2))
    assert projection.snapshot() == []


def test_low_battery_is_a_warning_with_its_level(projection: TelemetryProjection) -> None:
    low = ev.BatteryRanLow(node_id=NODE.id, battery_level=0.15, at=LATER)
    assert notice(projection, low) == (
        "warn",
        "Low battery detected on node node-1",
        {"batteryLevel": 0.15, "energySource": "battery"},
        NODE.id,
    )


def test_node_that_attaches_anew_is_noticed_only_if_it_was_away(projection: TelemetryProjection) -> None:
    again = ev.NodeAttached(registration=NODE, epoch=2, at=LATER)
    assert frames(projection, again) == []
    frames(projection, ev.NodeHealthChanged(node_id=NODE.id, health=Health.UNHEALTHY, at=LATER))
    assert frames(projection, again) == []
    frames(projection, ev.NodeHealthChanged(node_id=NODE.id, health=Health.LOST, at=LATER))
    assert len(frames(projection, again)) == 1


def test_name_with_braces_is_shown_as_it_is(projection: TelemetryProjection) -> None:
    frames(projection, ev.NodeAttached(registration=a_node(3, name="rack{0}"), epoch=1, at=LATER))
    lost = ev.NodeHealthChanged(node_id=node_id(3), health=Health.LOST, at=LATER)
    assert notice(projection, lost)[1] == "Node rack{0} was lost"


def test_other_events_make_no_frames(projection: TelemetryProjection) -> None:
    spec = a_workload(payload=a_container())
    silent: list[ev.Event] = [
        ev.WorkloadSubmitted(spec=spec, at=T0),
        ev.NodeSchedulingChanged(node_id=NODE.id, cordoned=False, at=T0),
        ev.NodeHealthChanged(node_id=NODE.id, health=Health.UNHEALTHY, at=T0),
        ev.ModelRegistered(model=a_model(), at=T0),
        ev.LogAppended(workload_id=spec.id, size_bytes=1, at=T0),
        placed(spec),
        running(spec),
        ev.WorkloadStopRequested(workload_id=spec.id, durable=True, at=T0),
        finished(spec, Phase.SUCCEEDED, spec=spec),
    ]
    assert frames(projection, *silent) == []


def test_snapshot_leaves_out_nodes_that_are_away() -> None:
    projection = TelemetryProjection()
    away = [view(registration=a_node(2), health=Health.LOST), view(registration=a_node(3), health=Health.GONE)]
    projection.reset([view(), *away, view(registration=a_node(4), health=Health.UNHEALTHY)])
    shown = [json.loads(frame.text)["node"]["id"] for frame in projection.snapshot()]
    assert shown == [node_id(1), node_id(4)]
