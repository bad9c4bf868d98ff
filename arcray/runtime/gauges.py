"""Gauges, published through Ray's metrics: the scheduler's, and the queues of gateways and machines.

Measured where everything is known, so that no other process counts, and nothing is counted per request.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from ray.util.metrics import Gauge

from arcray import metrics
from arcray.core.errors import ArcrayError
from arcray.core.node import Health
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import ClusterStats, GetQueues, GetStats, Queues
from arcray.core.queues import Meter, QueueReading
from arcray.core.workload import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from arcray.core.node import NodeView

__all__ = ["Gauges", "QueueGauges", "readings"]

_log = logging.getLogger(__name__)

_EVERY_S: Final = 5.0  # Ray exports every 10 s


class _HasClients(Protocol):
    @property
    def clients(self) -> int: ...


class Gauges:
    """Publishes all of ``arcray.metrics``."""

    def __init__(self, plane: ControlPlane, switchboard: _HasClients, clock: Clock) -> None:
        self._plane = plane
        self._switchboard = switchboard
        self._clock = clock
        self._gauges = {
            metric: Gauge(metric.name, description=metric.help, tag_keys=metric.labels)
            for metric in metrics.ALL
            if metric not in {metrics.SCHEDULER_REACHED, metrics.SOCKETS_FLOODED}  # those are for others to say
        }

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            await self._clock.sleep(_EVERY_S)
            try:
                stats: ClusterStats = await self._plane.query(GetStats())
                queues: Queues = await self._plane.query(GetQueues())
            except ArcrayError as error:
                _log.debug("no reading of the gauges", extra={"code": error.code})
                continue
            for metric, label, value in readings(stats, self._switchboard.clients, queues):
                self._gauges[metric].set(value, dict(zip(metric.labels, label, strict=True)))


class QueueGauges:
    """Publishes the queues of a process that is not the scheduler, which sees only its own.

    Args:
        meters: of that process.
    """

    def __init__(self, meters: Sequence[Meter], clock: Clock) -> None:
        self._meters = meters
        self._clock = clock
        self._gauges = {
            metric: Gauge(metric.name, description=metric.help, tag_keys=metric.labels)
            for metric in (metrics.QUEUE_WAITING, metrics.QUEUE_ALLOWED)
        }

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            await self._clock.sleep(_EVERY_S)
            for meter in self._meters:
                for metric, label, value in _queue_readings(meter()):
                    self._gauges[metric].set(value, dict(zip(metric.labels, label, strict=True)))


def readings(
    stats: ClusterStats, clients: int, queues: Queues
) -> Iterator[tuple[metrics.Metric, tuple[str, ...], float]]:
    """Yields every series with its value; those at zero too, or they would keep their last value for ever."""
    health = Counter(node.health for node in stats.nodes)
    for each in Health:
        yield metrics.NODES, (each.value,), health[each]
    yield from _latencies(stats.nodes)
    for phase in Phase:
        if not phase.terminal:
            yield metrics.WORKLOADS, (phase.value,), stats.workloads.get(phase, 0)
    inference = stats.inference
    yield metrics.INFERENCE, ("completed",), inference.completed
    yield metrics.INFERENCE, ("failed",), inference.failed
    yield metrics.INFERENCE, ("rejected",), inference.rejected
    yield metrics.INFERENCE_RUNNING, (), inference.in_flight
    for quantile, latency_ms in (("p50", inference.latency_ms_p50), ("p99", inference.latency_ms_p99)):
        if latency_ms is not None:
            yield metrics.INFERENCE_LATENCY, (quantile,), latency_ms
    yield metrics.CLIENTS, (), clients
    yield metrics.IMBALANCE, (), stats.imbalance
    yield metrics.WRITES_TAKEN, (), int(not queues.refusal)
    yield from _queue_readings(queues.readings)


def _latencies(nodes: Sequence[NodeView]) -> Iterator[tuple[metrics.Metric, tuple[str, ...], float]]:
    measured = sorted(
        node.telemetry.latency_ms
        for node in nodes
        if node.health is Health.HEALTHY and node.telemetry is not None and node.telemetry.latency_ms is not None
    )
    for quantile, share in (("p50", 0.5), ("p99", 0.99)):
        if measured:
            yield metrics.NODE_LATENCY, (quantile,), measured[int(share * (len(measured) - 1) + 0.5)]


def _queue_readings(
    readings: Iterable[QueueReading],
) -> Iterator[tuple[metrics.Metric, tuple[str, ...], float]]:
    for reading in readings:
        yield metrics.QUEUE_WAITING, (reading.queue.value,), reading.length
        yield metrics.QUEUE_ALLOWED, (reading.queue.value,), reading.limit
