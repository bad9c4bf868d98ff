"""Which topic an event belongs to: a table by type, and by the kind of workload where that decides."""

from __future__ import annotations

from typing import Final

from arcray.core import events as ev
from arcray.core.events import Event, Topic
from arcray.core.state import ClusterState
from arcray.core.workload import Inference

__all__ = ["topic_of"]

_BY_TYPE: Final[dict[type, Topic]] = {
    ev.NodeAttached: Topic.NODES,
    ev.NodeHealthChanged: Topic.NODES,
    ev.NodeDetached: Topic.NODES,
    ev.NodeSchedulingChanged: Topic.NODES,
    ev.NodeDrainChanged: Topic.NODES,
    ev.NodeRelabelled: Topic.NODES,
    ev.QuotaChanged: Topic.WORKLOADS,
    ev.BatteryRanLow: Topic.NODES,
    ev.TelemetryUpdated: Topic.TELEMETRY,
    ev.ModelsChanged: Topic.MODELS,
    ev.ModelRegistered: Topic.MODELS,
    ev.ModelRemoved: Topic.MODELS,
    ev.LogAppended: Topic.LOGS,
    ev.WorkloadCharged: Topic.ACCOUNTS,
    ev.AccountOpened: Topic.ACCOUNTS,
    ev.LoginSet: Topic.ACCOUNTS,
    ev.SpendingLimitSet: Topic.ACCOUNTS,
    ev.CreditsMoved: Topic.ACCOUNTS,
    ev.KeyIssued: Topic.KEYS,
    ev.KeyRevoked: Topic.KEYS,
    ev.KeysUsed: Topic.KEYS,
    ev.ReservationGranted: Topic.RESERVATIONS,
    ev.ReservationTaken: Topic.RESERVATIONS,
    ev.ReservationEnded: Topic.RESERVATIONS,
}


def topic_of(event: Event, state: ClusterState) -> Topic:
    """Returns the topic under which an event that was just applied is published."""
    topic = _BY_TYPE.get(type(event))
    if topic is not None:
        return topic
    workload = state.workloads[event.workload_id]  # type: ignore[union-attr]  # all others are about a workload
    return Topic.INFERENCE if isinstance(workload.spec.payload, Inference) else Topic.WORKLOADS
