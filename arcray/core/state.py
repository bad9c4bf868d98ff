"""The state of a cluster: dictionaries, the indexes derived from them, and ``apply``, the only writer of both.

What lives here: how a fact changes the state. What does not: which facts come about (handlers). ``apply`` never refuses
and never decides; an event that does not fit is our own bug and trips an assertion.

Invariants (``check_invariants``): every live workload is either in exactly one queue or holds an allocation on an
attached node; the placement engine's books equal the sum of those allocations; a terminal workload holds nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from arcray.core import events as ev
from arcray.core.before import Before
from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.lifecycle import advance, requeue
from arcray.core.lowering import features, wanted
from arcray.core.model import Model
from arcray.core.node import EnergySource, Health, Node
from arcray.core.pending import PendingQueue, SlotQueue
from arcray.core.placement.engine import Engine
from arcray.core.placement.formulas import FORMULAS, RoutingNode
from arcray.core.placement.request import PlacementNode, PlacementRequest
from arcray.core.placement.routing import RoutingIndex
from arcray.core.policy import ClusterPolicy
from arcray.core.timers import LeaseTimers
from arcray.core.workload import Inference, Phase, Workload, WorkloadSpec

__all__ = ["ClusterState", "InferenceCounts", "placement_request"]

_LATENCIES_KEPT = 4096


def placement_request(spec: WorkloadSpec) -> PlacementRequest:
    """Returns what a workload asks of placement; equal requests compare equal."""
    return PlacementRequest(
        demand=spec.demand, wants=wanted(spec.payload), selector=spec.selector, node_id=spec.node_id
    )


class InferenceCounts:
    """Counters since the scheduler started, and the newest latencies in milliseconds."""

    __slots__ = ("completed", "dispatched", "failed", "latencies_ms", "rejected")

    def __init__(self) -> None:
        self.dispatched = 0
        self.completed = 0
        self.failed = 0
        self.rejected = 0
        self.latencies_ms: deque[float] = deque(maxlen=_LATENCIES_KEPT)


class ClusterState:
    """Everything the scheduler knows.

    Attributes:
        nodes: every node that ever attached and was not forgotten, in order of joining.
        workloads: live ones, and the newest finished ones.
        models: registered models.
        requests: (account, request id) -> workload, for as long as the workload is in memory.
        on_node: live placed workloads of each node.
        pending, waiting: work without a place, requests without a slot.
        placement, routing: indexes derived from nodes and allocations.
        dispatched: (deadline, workload, attempt) of requests on nodes, in order of deadline.
        forgotten_until: no finished workload created later was let go of; None when none was.
        before: where copies of what is about to change go; the shell sets another for each batch that it writes.
    """

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        self.started_at = started_at
        self.nodes: dict[NodeId, Node] = {}
        self.workloads: dict[WorkloadId, Workload] = {}
        self.models: dict[ModelId, Model] = {}
        self.requests: dict[tuple[AccountId, str], WorkloadId] = {}
        self.on_node: dict[NodeId, dict[WorkloadId, None]] = {}
        self.pending = PendingQueue()
        self.waiting = SlotQueue()
        self.leases = LeaseTimers()
        self.dispatched: deque[tuple[datetime, WorkloadId, int]] = deque()
        self.inference = InferenceCounts()
        self.placement = Engine()
        self.routing = RoutingIndex(
            FORMULAS[policy.score],
            saturation=policy.saturation,
            stale_after_s=policy.stale_after.total_seconds(),
        )
        self.needs_round = False
        self.needs_models: set[NodeId] = set()
        self.slots_freed: dict[ModelId, None] = {}
        self.forgotten_until: datetime | None = None
        self.before = Before()
        self._policy = policy
        self._finished: deque[WorkloadId] = deque()
        self._finished_inference: deque[WorkloadId] = deque()

    # -- facts ---------------------------------------------------------------------------------------------------

    def apply(self, event: ev.Event) -> None:  # noqa: C901, PLR0912  one arm per fact, the busiest first
        """Changes the state as the fact says."""
        match event:
            case ev.WorkloadSubmitted():
                self._submitted(event)
            case ev.WorkloadPlaced():
                self._placed(event)
            case ev.WorkloadPhaseChanged():
                self._phase_changed(event)
            case ev.WorkloadFinished():
                self._finish(event)
            case ev.TelemetryUpdated():
                self._telemetry(event)
            case ev.WorkloadStopRequested():
                workload = self.workloads[event.workload_id]
                workload.phase = advance(workload.phase, Phase.STOPPING)
                workload.stop_requested = True
            case ev.WorkloadRequeued():
                self._requeued(event)
            case ev.ModelsChanged():
                self._models_changed(event)
            case ev.NodeAttached():
                self._attached(event)
            case ev.NodeHealthChanged():
                self._health_changed(event)
            case ev.NodeDetached():
                self.nodes[event.node_id].health = Health.GONE
                self._node_changed(event.node_id)
            case ev.NodeSchedulingChanged():
                self.nodes[event.node_id].cordoned = event.cordoned
                self._node_changed(event.node_id)
            case ev.ModelRegistered():
                self.models[event.model.id] = event.model
            case ev.ModelRemoved():
                del self.models[event.model_id]
            case ev.BatteryRanLow() | ev.LogAppended():
                pass  # facts for readers; no state follows from them
            case _:
                assert_never(event)

    def restore(self, nodes: list[Node], workloads: list[Workload], models: list[Model], now: datetime) -> None:
        """Fills an empty state from rows. Leases begin anew at full term; nodes are asked for their models again."""
        assert not self.nodes
        assert not self.workloads
        for model in models:
            self.models[model.id] = model
        for node in nodes:
            self.nodes[node.id] = node
            self.on_node[node.id] = {}
            node.last_seen = now
            if node.health in (Health.HEALTHY, Health.UNHEALTHY):
                node.health = Health.HEALTHY
                self.leases.watch(node.id, now, node.registration.lease)
                self.needs_models.add(node.id)
            self._node_changed(node.id)
        for workload in sorted(workloads, key=lambda w: (w.spec.created_at, w.spec.id)):
            self._restore_workload(workload)
        self.dispatched = deque(sorted(self.dispatched))

    def recall(self, workload: Workload) -> None:
        """Takes a finished workload back into memory, so that the rules see a submission that repeats it."""
        assert workload.phase.terminal
        if workload.spec.id not in self.workloads:
            self._restore_workload(workload)

    def retire(self, workload_ids: Iterable[WorkloadId]) -> None:
        """Takes finished workloads, which are in the rows now, for old: beyond the limits the earliest are let go."""
        for workload_id in workload_ids:
            payload = self.workloads[workload_id].spec.payload
            (self._finished_inference if isinstance(payload, Inference) else self._finished).append(workload_id)
        self._forget(self._finished, self._policy.keep_finished)
        self._forget(self._finished_inference, self._policy.keep_finished_inference)

    def discard(self, workload_ids: Iterable[WorkloadId]) -> None:
        """Lets go of these workloads, of those that have ended, old or not."""
        gone = {key for key in workload_ids if key in self.workloads and self.workloads[key].phase.terminal}
        if not gone:
            return
        for workload_id in gone:
            self._let_go(workload_id)
        self._finished = deque(key for key in self._finished if key not in gone)
        self._finished_inference = deque(key for key in self._finished_inference if key not in gone)

    # -- reading -------------------------------------------------------------------------------------------------

    def live_on(self, node_id: NodeId) -> list[Workload]:
        """Returns the live workloads placed on a node, oldest placement first."""
        return [self.workloads[workload_id] for workload_id in self.on_node.get(node_id, ())]

    def check_invariants(self) -> None:
        """Asserts that the indexes agree with the dictionaries. For tests; visits everything."""
        for node_id, ids in self.on_node.items():
            for workload_id in ids:
                workload = self.workloads[workload_id]
                assert workload.node_id == node_id, workload
                assert workload.allocation is not None, workload
                assert not workload.phase.terminal, workload
        for workload in self.workloads.values():
            queued = (workload.id in self.pending) + (workload.id in self.waiting)
            assert queued == (workload.phase is Phase.PENDING), workload
            holds = workload.node_id is not None and workload.id in self.on_node.get(workload.node_id, {})
            assert holds == (not workload.phase.terminal and workload.phase is not Phase.PENDING), workload
            assert (workload.allocation is not None) == holds, workload
        for node in self.nodes.values():
            self._check_books(node)

    def _check_books(self, node: Node) -> None:
        capacity = node.registration.capacity
        held = [w.allocation for w in self.live_on(node.id) if w.allocation is not None]
        free = self.placement.free(node.id)
        assert free.cpu_milli == capacity.cpu_milli - sum(a.cpu_milli for a in held), node.id
        assert free.memory_bytes == capacity.memory_bytes - sum(a.memory_bytes for a in held), node.id
        assert free.disk_bytes == capacity.disk_bytes - sum(a.disk_bytes for a in held), node.id
        shares = [share for a in held for share in a.gpus]
        for gpu in capacity.gpus:
            on_device = [share for share in shares if share.index == gpu.index]
            assert sum(share.memory_bytes for share in on_device) <= gpu.memory_bytes, (node.id, gpu.index)
            assert len(on_device) == 1 or not any(share.whole for share in on_device), (node.id, gpu.index)

    # -- applying ------------------------------------------------------------------------------------------------

    def _submitted(self, event: ev.WorkloadSubmitted) -> None:
        spec = event.spec
        workload = Workload(spec=spec)
        self.workloads[spec.id] = workload
        if spec.request_id:
            self.requests[spec.origin.account, spec.request_id] = spec.id
        self._enqueue(workload, event.at)

    def _enqueue(self, workload: Workload, now: datetime) -> None:
        spec = workload.spec
        if isinstance(spec.payload, Inference):
            deadline = now + self._policy.routing_patience
            self.waiting.add(spec.id, spec.payload.model_id, spec.priority, deadline)
        else:
            self.pending.add(spec.id, spec.priority, placement_request(spec), workload.not_before)
            self.needs_round = True

    def _dequeue(self, workload: Workload) -> None:
        (self.waiting if isinstance(workload.spec.payload, Inference) else self.pending).remove(workload.spec.id)

    def _placed(self, event: ev.WorkloadPlaced) -> None:
        workload = self.workloads[event.workload_id]
        self._dequeue(workload)
        workload.phase = advance(workload.phase, Phase.PLACED)
        workload.attempt = event.attempt
        workload.not_before = None
        workload.placed_at = event.at
        self._hold(workload, event)
        if isinstance(workload.spec.payload, Inference):
            self.inference.dispatched += 1
            self.dispatched.append((event.at + self._policy.inference_timeout, event.workload_id, event.attempt))

    def _hold(self, workload: Workload, place: ev.WorkloadPlaced) -> None:
        workload.node_id = place.node_id
        workload.allocation = place.allocation
        self.on_node[place.node_id][workload.spec.id] = None
        payload = workload.spec.payload
        if isinstance(payload, Inference):
            self.routing.acquire(place.node_id, payload.model_id)
        else:
            self.placement.allocate(place.node_id, place.allocation)

    def _free(self, workload: Workload) -> None:
        if workload.allocation is None or workload.node_id is None:
            return
        payload = workload.spec.payload
        if isinstance(payload, Inference):
            self.routing.release(workload.node_id, payload.model_id)
            if self.waiting.waits_for(payload.model_id):
                self.slots_freed[payload.model_id] = None
        else:
            self.placement.release(workload.node_id, workload.allocation)
            self.needs_round = self.needs_round or self.pending.ready > 0
        workload.allocation = None
        del self.on_node[workload.node_id][workload.spec.id]

    def _phase_changed(self, event: ev.WorkloadPhaseChanged) -> None:
        workload = self.workloads[event.workload_id]
        workload.phase = advance(workload.phase, event.phase)
        workload.message = event.message
        workload.ports = event.ports or workload.ports
        if event.phase is Phase.RUNNING:
            workload.started_at = event.at

    def _requeued(self, event: ev.WorkloadRequeued) -> None:
        workload = self.workloads[event.workload_id]
        self._free(workload)
        workload.phase = requeue(workload.phase)
        workload.node_id = None
        workload.ports = ()
        workload.message = event.reason
        workload.restarts += event.restart
        workload.not_before = event.not_before if event.not_before > event.at else None
        self._enqueue(workload, event.at)
        if isinstance(workload.spec.payload, Inference):
            self.slots_freed[workload.spec.payload.model_id] = None  # another node may have a slot right now

    def _finish(self, event: ev.WorkloadFinished) -> None:
        workload = self.workloads[event.workload_id]
        if workload.phase is Phase.PENDING:
            self._dequeue(workload)
        self._free(workload)
        workload.phase = advance(workload.phase, event.phase)
        workload.message = event.message
        workload.result = event.result
        workload.finished_at = event.at
        if isinstance(workload.spec.payload, Inference):
            self._count_inference(workload, event)

    def _forget(self, finished: deque[WorkloadId], limit: int) -> None:
        while len(finished) > limit:
            self._let_go(finished.popleft())

    def _let_go(self, workload_id: WorkloadId) -> None:
        spec = self.workloads.pop(workload_id).spec
        if spec.request_id:
            self.requests.pop((spec.origin.account, spec.request_id), None)
        if self.forgotten_until is None or spec.created_at > self.forgotten_until:
            self.forgotten_until = spec.created_at

    def _count_inference(self, workload: Workload, event: ev.WorkloadFinished) -> None:
        counts = self.inference
        if event.phase is Phase.SUCCEEDED:
            counts.completed += 1
            counts.latencies_ms.append((event.at - workload.spec.created_at).total_seconds() * 1000)
        elif event.phase is Phase.REJECTED:
            counts.rejected += 1
        else:
            counts.failed += 1

    def _telemetry(self, event: ev.TelemetryUpdated) -> None:
        node = self.nodes[event.node_id]
        node.last_seen = event.at
        if event.telemetry is not None:
            node.telemetry = event.telemetry
            self.routing.upsert_node(_routing_node(node))

    def _models_changed(self, event: ev.ModelsChanged) -> None:
        node = self.nodes[event.node_id]
        node.models = event.models
        self.needs_models.discard(event.node_id)
        slots_of: Counter[ModelId] = Counter()
        for copy in event.models:  # a node may have several copies of one model
            slots_of[copy.model_id] += copy.slots
        self.routing.set_models(event.node_id, slots_of)
        self._wake(node)

    def _wake(self, node: Node) -> None:
        for slots in node.models:
            if self.waiting.waits_for(slots.model_id):
                self.slots_freed[slots.model_id] = None

    def _attached(self, event: ev.NodeAttached) -> None:
        registration = event.registration
        known = self.nodes.get(registration.id)
        if known is None:
            known = Node(
                registration=registration, epoch=event.epoch, health=Health.HEALTHY, joined_at=event.at,
                last_seen=event.at,
            )  # fmt: skip
            self.nodes[registration.id] = known
            self.on_node[registration.id] = {}
        known.registration = registration
        known.epoch = event.epoch
        known.health = Health.HEALTHY
        known.last_seen = event.at
        known.models = ()
        self.needs_models.discard(registration.id)
        self.leases.watch(registration.id, event.at, registration.lease)
        self._node_changed(registration.id)
        self.routing.set_models(registration.id, {})

    def _health_changed(self, event: ev.NodeHealthChanged) -> None:
        node = self.nodes[event.node_id]
        node.health = event.health
        if event.health is Health.HEALTHY:
            self.leases.watch(node.id, event.at, node.registration.lease)
        self._node_changed(event.node_id)

    def _node_changed(self, node_id: NodeId) -> None:
        """Brings the indexes up to date after anything that placement asks about a node has changed."""
        node = self.nodes[node_id]
        if node.health is Health.GONE:
            self.leases.forget(node_id)
        self.placement.upsert(
            PlacementNode(
                id=node_id,
                capacity=node.registration.capacity,
                features=features(node.registration.capabilities),
                labels=node.registration.labels,
                schedulable=node.schedulable,
            )
        )
        self.routing.upsert_node(_routing_node(node))
        if node.schedulable:
            self.needs_round = self.needs_round or self.pending.ready > 0
            self._wake(node)

    def _restore_workload(self, workload: Workload) -> None:
        self.workloads[workload.spec.id] = workload
        if workload.spec.request_id:
            self.requests[workload.spec.origin.account, workload.spec.request_id] = workload.spec.id
        if workload.phase.terminal:
            finished = self._finished_inference if isinstance(workload.spec.payload, Inference) else self._finished
            finished.append(workload.spec.id)
        elif workload.phase is Phase.PENDING:
            self._enqueue(workload, workload.spec.created_at)
        else:
            assert workload.node_id is not None
            assert workload.allocation is not None
            assert workload.placed_at is not None
            self.on_node[workload.node_id][workload.spec.id] = None
            if isinstance(workload.spec.payload, Inference):
                self.routing.acquire(workload.node_id, workload.spec.payload.model_id)
                deadline = workload.placed_at + self._policy.inference_timeout
                self.dispatched.append((deadline, workload.spec.id, workload.attempt))
            else:
                self.placement.allocate(workload.node_id, workload.allocation)


def _routing_node(node: Node) -> RoutingNode:
    registration = node.registration
    telemetry = node.telemetry
    gpus = telemetry.gpus if telemetry else ()
    utilization = (
        sum(g.utilization for g in gpus) / len(gpus) if gpus else telemetry.cpu_utilization if telemetry else 0.0
    )
    return RoutingNode(
        id=registration.id,
        schedulable=node.schedulable,
        geohash=registration.location.geohash,
        geozone=registration.location.geozone,
        cogen=telemetry is not None and telemetry.energy_source is EnergySource.COGEN,
        battery_level=telemetry.battery_level if telemetry else 1.0,
        utilization=utilization,
        last_seen_s=node.last_seen.timestamp(),
        admits_by_utilization=registration.capabilities.admits_by_utilization,
    )
