"""What the telemetry stream must remember to turn events into frames: the nodes, and the requests in flight.

Sans-I/O. Events carry ids, frames carry names, positions and latencies; the difference is kept here, bounded. Each
event becomes at most one frame text, however many consoles read it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from arcray.core import events as ev
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.node import Health, NodeRegistration, NodeView, Telemetry
from arcray.core.workload import Inference, Phase, WorkloadSpec
from arcray.facades.arcnet import codec, translate
from arcray.facades.arcnet.messages import (
    InferenceStatus,
    InferenceUpdate,
    ServerFrame,
    Severity,
    SystemNotice,
    TelemetryUpdate,
)

__all__ = ["TOPICS", "Frame", "TelemetryProjection"]

TOPICS: Final = frozenset({ev.Topic.NODES, ev.Topic.TELEMETRY, ev.Topic.MODELS, ev.Topic.INFERENCE})

_AWAY: Final = frozenset({Health.LOST, Health.GONE})


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it goes out.

    Args:
        geozone: of the node whose telemetry it is; None for frames that no filter holds back.
        account: whose request it tells of; None for what everyone may see.
    """

    text: str
    geozone: str | None = None
    account: AccountId | None = None


@dataclass(slots=True, kw_only=True)
class _Node:
    registration: NodeRegistration
    health: Health
    telemetry: Telemetry | None
    models: tuple[ModelSlots, ...]
    seen: datetime
    geozone: str


@dataclass(slots=True, kw_only=True)
class _Request:
    spec: WorkloadSpec
    node_id: NodeId | None = None


class TelemetryProjection:
    """Nodes and requests as the events tell them.

    Args:
        requests_kept: requests in flight that are remembered; of more, the oldest are forgotten.
    """

    def __init__(self, requests_kept: int = 65_536) -> None:
        self._requests_kept = requests_kept
        self._nodes: dict[NodeId, _Node] = {}
        self._requests: OrderedDict[WorkloadId, _Request] = OrderedDict()

    def reset(self, nodes: Iterable[NodeView]) -> None:
        """Replaces what is known of the nodes, at the start and after a gap."""
        self._nodes = {
            view.registration.id: _Node(
                registration=view.registration,
                health=view.health,
                telemetry=view.telemetry,
                models=view.models,
                seen=view.last_seen,
                geozone=translate.location_of(view.registration).geozone,
            )
            for view in nodes
        }

    def learn(self, spec: WorkloadSpec) -> None:
        """Remembers a request, until its end or until too many newer ones have come."""
        if not isinstance(spec.payload, Inference):
            return
        self._requests[spec.id] = _Request(spec=spec)
        if len(self._requests) > self._requests_kept:
            self._requests.popitem(last=False)

    def unknown(self, event: ev.Event) -> WorkloadId | None:
        """Returns the request that must be looked up and learned before ``apply`` can tell of its end."""
        if isinstance(event, ev.WorkloadFinished) and event.spec is None and event.workload_id not in self._requests:
            return event.workload_id
        return None

    def snapshot(self) -> list[Frame]:
        """Returns a telemetry frame of every node that is there."""
        return [self._telemetry(node) for node in self._nodes.values() if node.health not in _AWAY]

    def apply(self, event: ev.Event) -> Sequence[Frame]:  # noqa: C901, PLR0911  one arm per event
        """Takes an event; returns the frames that it makes."""
        match event:
            case ev.NodeAttached():
                return self._on_attached(event)
            case ev.NodeHealthChanged():
                return self._on_health(event)
            case ev.NodeDetached():
                return self._on_detached(event)
            case ev.NodeSchedulingChanged(cordoned=True):
                return self._notice(event.node_id, Severity.INFO, "Node {name} was drained", event.at)
            case ev.TelemetryUpdated():
                return self._on_telemetry(event)
            case ev.ModelsChanged():
                return self._on_models(event)
            case ev.BatteryRanLow():
                return self._on_battery(event)
            case ev.WorkloadSubmitted():
                self.learn(event.spec)
            case ev.WorkloadPlaced() | ev.WorkloadPhaseChanged(phase=Phase.RUNNING):
                return self._on_progress(event)
            case ev.WorkloadFinished():
                return self._on_finished(event)
            case _:
                pass
        return ()

    def _on_attached(self, event: ev.NodeAttached) -> Sequence[Frame]:
        registration = event.registration
        before = self._nodes.get(registration.id)
        self._nodes[registration.id] = _Node(
            registration=registration,
            health=Health.HEALTHY,
            telemetry=before.telemetry if before else None,
            models=(),
            seen=event.at,
            geozone=translate.location_of(registration).geozone,
        )
        if before is not None and before.health not in _AWAY:
            return ()  # it only attached anew; nobody missed it
        return self._notice(registration.id, Severity.SUCCESS, "Node {name} joined", event.at)

    def _on_health(self, event: ev.NodeHealthChanged) -> Sequence[Frame]:
        node = self._nodes.get(event.node_id)
        if node is not None:
            node.health = event.health
        if event.health is not Health.LOST:
            return ()
        return self._notice(event.node_id, Severity.ERROR, "Node {name} was lost", event.at)

    def _on_detached(self, event: ev.NodeDetached) -> Sequence[Frame]:
        node = self._nodes.get(event.node_id)
        if node is not None:
            node.health = Health.GONE
        details = {"reason": event.reason} if event.reason else None
        return self._notice(event.node_id, Severity.INFO, "Node {name} left", event.at, details)

    def _on_battery(self, event: ev.BatteryRanLow) -> Sequence[Frame]:
        details = {"batteryLevel": event.battery_level, "energySource": "battery"}
        return self._notice(event.node_id, Severity.WARN, "Low battery detected on node {name}", event.at, details)

    def _on_telemetry(self, event: ev.TelemetryUpdated) -> Sequence[Frame]:
        node = self._nodes.get(event.node_id)
        if node is None:
            return ()
        node.seen = event.at
        if event.telemetry is None:
            return ()
        node.telemetry = event.telemetry
        return (self._telemetry(node),)

    def _on_models(self, event: ev.ModelsChanged) -> Sequence[Frame]:
        node = self._nodes.get(event.node_id)
        if node is None or node.models == event.models:
            return ()
        node.models = event.models
        return (self._telemetry(node),)

    def _on_progress(self, event: ev.WorkloadPlaced | ev.WorkloadPhaseChanged) -> Sequence[Frame]:
        request = self._requests.get(event.workload_id)
        if request is None:
            return ()
        status = InferenceStatus.PROCESSING
        if isinstance(event, ev.WorkloadPlaced):
            status = InferenceStatus.DISPATCHED
            request.node_id = event.node_id
        return (self._inference(request.spec, status, request.node_id, None, event.at),)

    def _on_finished(self, event: ev.WorkloadFinished) -> Sequence[Frame]:
        request = self._requests.pop(event.workload_id, None)
        spec = request.spec if request else event.spec
        if spec is None or not isinstance(spec.payload, Inference):
            return ()
        status = translate.status_of_phase(event.phase)
        latency = translate.latency_ms(spec.created_at, event.at) if status is InferenceStatus.COMPLETED else None
        node_id = None if status is InferenceStatus.REJECTED else event.node_id
        return (self._inference(spec, status, node_id, latency, event.at),)

    def _telemetry(self, node: _Node) -> Frame:
        reading = translate.telemetry_of(node.registration, node.telemetry, node.models, node.seen)
        return Frame(codec.encode_frame(TelemetryUpdate(node=reading)), node.geozone)

    def _inference(
        self, spec: WorkloadSpec, status: InferenceStatus, node_id: NodeId | None, latency: int | None, at: datetime
    ) -> Frame:
        payload = spec.payload
        assert isinstance(payload, Inference), "only inference requests are remembered"
        return _frame(
            InferenceUpdate(
                request_id=translate.request_id_of(spec),
                source=translate.requester_position(payload) or self._position(node_id),
                target_node_id=node_id or "",
                model_id=payload.model_id,
                priority=spec.priority,
                status=status,
                latency_ms=latency,
                timestamp=at,
            ),
            spec.origin.account,
        )

    def _position(self, node_id: NodeId | None) -> tuple[float, float]:
        """Returns where a node stands: what stands in for a requester of whom nothing is known."""
        node = self._nodes.get(node_id) if node_id else None
        if node is None:
            return 0.0, 0.0
        location = translate.location_of(node.registration)
        return location.longitude, location.latitude

    def _notice(
        self,
        node_id: NodeId,
        severity: Severity,
        message: str,
        at: datetime,
        details: Mapping[str, Any] | None = None,
    ) -> Sequence[Frame]:
        node = self._nodes.get(node_id)
        name = node.registration.name if node else node_id
        notice = SystemNotice(
            severity=severity, message=message.format(name=name), details=details, node_id=node_id, timestamp=at
        )
        return (_frame(notice),)


def _frame(message: ServerFrame, account: AccountId | None = None) -> Frame:
    return Frame(codec.encode_frame(message), account=account)
