"""Every metric: name, help, labels. Declarations only.

``runtime.gauges`` measures and hands them to Ray's exporter; ``gateway.measures`` answers ``GET /metrics`` with queues.

Names are ``arcray_<noun>_<verb>_<unit>``; labels come from closed sets, so the number of series is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "ALL",
    "CLIENTS",
    "IMBALANCE",
    "INFERENCE",
    "INFERENCE_LATENCY",
    "INFERENCE_RUNNING",
    "NODES",
    "NODE_LATENCY",
    "QUEUE_ALLOWED",
    "QUEUE_WAITING",
    "SCHEDULER_REACHED",
    "SOCKETS_FLOODED",
    "WORKLOADS",
    "WRITES_TAKEN",
    "Metric",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A gauge.

    Args:
        labels: names of its labels, each with a closed set of values.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()


NODES: Final = Metric(
    name="arcray_nodes_known_count", help="Machines of the pool by what their lease says.", labels=("health",)
)
NODE_LATENCY: Final = Metric(
    name="arcray_nodes_answered_ms",
    help="Time that machines took to answer when they were asked last, over those whose protocol asks.",
    labels=("quantile",),
)
WORKLOADS: Final = Metric(
    name="arcray_workloads_live_count",
    help="Workloads that have not ended, by phase; inference requests are counted apart.",
    labels=("phase",),
)
INFERENCE: Final = Metric(
    name="arcray_inference_ended_count",
    help="Inference requests since the scheduler started, by how they ended.",
    labels=("end",),
)
INFERENCE_RUNNING: Final = Metric(name="arcray_inference_running_count", help="Inference requests on nodes now.")
INFERENCE_LATENCY: Final = Metric(
    name="arcray_inference_answered_ms",
    help="Time from submission to end over the newest 4,096 completions.",
    labels=("quantile",),
)
CLIENTS: Final = Metric(
    name="arcray_clients_connected_count", help="Processes that exchange with the scheduler: gateways and nodes."
)

IMBALANCE: Final = Metric(
    name="arcray_ledger_imbalance_credits",
    help="Sum over all books of the ledger: 0, or credits were made or lost, which is a fault of ours.",
)

QUEUE_WAITING: Final = Metric(
    name="arcray_queue_waiting_count",
    help="What waits in a queue now; of several queues of a kind, in the longest one.",
    labels=("queue",),
)
QUEUE_ALLOWED: Final = Metric(
    name="arcray_queue_allowed_count",
    help="What may wait in a queue; more is refused, or dropped with a gap that its reader is told of.",
    labels=("queue",),
)
SCHEDULER_REACHED: Final = Metric(
    name="arcray_scheduler_reached_state", help="1 when the scheduler answered this scrape, else 0."
)
SOCKETS_FLOODED: Final = Metric(
    name="arcray_sockets_flooded_count",
    help="WebSockets that this process has closed because they sent more than gateway.ws_frames_per_s allows.",
)
WRITES_TAKEN: Final = Metric(
    name="arcray_scheduler_writes_state",
    help="1 while the scheduler takes writes, 0 while its database fails; what is known is answered all the same.",
)

ALL: Final = (
    NODES,
    NODE_LATENCY,
    WORKLOADS,
    INFERENCE,
    INFERENCE_RUNNING,
    INFERENCE_LATENCY,
    CLIENTS,
    IMBALANCE,
    QUEUE_WAITING,
    QUEUE_ALLOWED,
    SCHEDULER_REACHED,
    SOCKETS_FLOODED,
    WRITES_TAKEN,
)
