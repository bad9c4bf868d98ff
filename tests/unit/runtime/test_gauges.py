from __future__ import annotations

from arcray import metrics
from arcray.core.commands import ReportTelemetry
from arcray.core.node import Telemetry
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ClusterStats, GetStats, InferenceStats, Queues
from arcray.core.queues import Queue, QueueReading
from arcray.core.workload import Phase
from arcray.runtime.gauges import readings
from arcray.testing.builders import T0, a_node, node_id
from arcray.testing.world import World

STATS = ClusterStats(
    nodes=(),
    workloads={Phase.RUNNING: 3},
    inference=InferenceStats(
        dispatched=9, completed=5, failed=1, rejected=2, in_flight=1, latency_ms_p50=None, latency_ms_p99=None
    ),
    uptime_s=1.0,
    imbalance=0,
)
QUEUES = Queues(readings=(QueueReading(queue=Queue.PENDING, length=7, limit=9),))


def test_every_series_of_a_closed_set_is_published_also_at_zero() -> None:
    series = {(metric.name, label): value for metric, label, value in readings(STATS, clients=2, queues=QUEUES)}
    assert series["arcray_workloads_live_count", ("running",)] == 3
    assert series["arcray_workloads_live_count", ("pending",)] == 0
    assert ("arcray_workloads_live_count", ("succeeded",)) not in series
    assert series["arcray_nodes_known_count", ("lost",)] == 0
    assert series["arcray_inference_ended_count", ("rejected",)] == 2
    assert series["arcray_clients_connected_count", ()] == 2
    assert series["arcray_ledger_imbalance_credits", ()] == 0
    assert series["arcray_queue_waiting_count", ("pending",)] == 7
    assert series["arcray_queue_allowed_count", ("pending",)] == 9


def test_a_latency_that_nobody_measured_is_not_published() -> None:
    assert metrics.INFERENCE_LATENCY not in {metric for metric, _, _ in readings(STATS, clients=0, queues=QUEUES)}


def test_machines_are_one_series_a_quantile_however_many_there_are() -> None:
    world = World(ClusterPolicy())
    for number in range(1, 101):
        world.attach(a_node(number))
        reading = Telemetry(at=T0, latency_ms=float(number))
        world.handle(ReportTelemetry(node_id=node_id(number), epoch=1, telemetry=reading))
    stats = world.cluster.answer(GetStats(), T0)
    assert isinstance(stats, ClusterStats)
    found = [(label, value) for metric, label, value in readings(stats, 0, QUEUES) if metric is metrics.NODE_LATENCY]
    assert found == [(("p50",), 51.0), (("p99",), 99.0)]


def test_labels_are_as_declared_and_names_begin_with_ours() -> None:
    for metric, label, _ in readings(STATS, clients=0, queues=QUEUES):
        assert len(label) == len(metric.labels)
    assert all(metric.name.startswith("arcray_") for metric in metrics.ALL)
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
