"""The state of a cluster: dictionaries, the indexes derived from them, and ``apply``, the only writer of both.

What lives here: how a fact changes the state. What does not: which facts come about (handlers). ``apply`` never refuses
and never decides; an event that does not fit is our own bug and trips an assertion.

Invariants (``check_invariants``): every live workload is either in exactly one queue or holds an allocation on an
attached node; the placement engine's books equal the sum of those allocations; a terminal workload holds nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from heapq import heappush
from typing import Final, assert_never

from arcray.core import events as ev
from arcray.core import invariants
from arcray.core.asked import placement_node, placement_request, routing_node, shape_of
from arcray.core.counts import InferenceCounts
from arcray.core.durations import Durations
from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.lifecycle import advance, requeue
from arcray.core.model import Model
from arcray.core.node import Health, Node
from arcray.core.pending import PendingQueue, SlotQueue
from arcray.core.placement.engine import Engine
from arcray.core.placement.formulas import FORMULAS
from arcray.core.placement.routing import RoutingIndex
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import AccountQuota, Quota, Usage
from arcray.core.timers import LeaseTimers
from arcray.core.workload import Eviction, Inference, Phase, Workload

__all__ = ["ClusterState"]

_ATTEMPTS_KEPT: Final = 10  # records of attempts in the state, and so in the row, of one workload


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
        quotas: of the accounts that an operator gave one.
        usage: what each account holds, while it holds something.
        draining: nodes with a drain that has not come to its end.
        drains_to_check: those of them from which work has gone since somebody looked.
        overtime: heap of (when to look, workload, attempt) of running work that may run only so long.
        durations: what estimates are made of.
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
        self.quotas: dict[AccountId, Quota] = {}
        self.usage: dict[AccountId, Usage] = {}
        self.draining: dict[NodeId, None] = {}
        self.drains_to_check: dict[NodeId, None] = {}
        self.overtime: list[tuple[datetime, WorkloadId, int]] = []
        self.durations = Durations()
        self._policy = policy
        self._finished: deque[WorkloadId] = deque()
        self._finished_inference: deque[WorkloadId] = deque()
        self._settling: set[WorkloadId] = set()  # not to be let go of before their rows say that they are settled

    # -- facts ---------------------------------------------------------------------------------------------------

    def apply(self, event: ev.Event) -> None:  # noqa: C901, PLR0912, PLR0915  one arm per fact, the busiest first
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
                if workload.evicted is None:  # else it is stopping already, and its owner wants no other attempt
                    workload.phase = advance(workload.phase, Phase.STOPPING)
                workload.stop_requested = True
            case ev.WorkloadRequeued():
                self._requeued(event)
            case ev.WorkloadEvicted():
                self._evicted(event)
            case ev.WorkloadSettled():
                self._settled(event)
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
                self.nodes[event.node_id].cordoned_gpus = event.cordoned_gpus
                self._node_changed(event.node_id)
            case ev.NodeDrainChanged():
                self._drain_changed(event)
            case ev.NodeRelabelled():
                self.nodes[event.node_id].relabelled = event.labels
                self._node_changed(event.node_id)
            case ev.QuotaChanged():
                self._quota_changed(event)
            case ev.ModelRegistered():
                self.models[event.model.id] = event.model
            case ev.ModelRemoved():
                del self.models[event.model_id]
            case ev.BatteryRanLow() | ev.LogAppended():
                pass  # facts for readers; no state follows from them
            case _:
                assert_never(event)

    def restore(
        self,
        nodes: list[Node],
        workloads: list[Workload],
        models: list[Model],
        now: datetime,
        quotas: Iterable[AccountQuota] = (),
    ) -> None:
        """Fills an empty state from rows. Leases begin anew at full term; nodes are asked for their models again."""
        assert not self.nodes
        assert not self.workloads
        for given in quotas:
            self.quotas[given.account] = given.quota
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
            if node.drain is not None and node.drain.done_at is None:
                self.draining[node.id] = self.drains_to_check[node.id] = None
            self._node_changed(node.id)
        for workload in sorted(workloads, key=lambda w: (w.spec.created_at, w.spec.id)):
            self._restore_workload(workload)
            if workload.phase.terminal:
                self._latest_of(workload).append(workload.spec.id)
            if workload.evicted is Eviction.OVERTIME and not workload.phase.terminal:
                heappush(self.overtime, (now + self._policy.overtime_grace, workload.spec.id, workload.attempt))
        self.dispatched = deque(sorted(self.dispatched))

    def recall(self, workload: Workload) -> None:
        """Takes a finished workload back into memory, so that the rules see a submission that repeats it."""
        assert workload.phase.terminal
        if workload.spec.id not in self.workloads:
            self._restore_workload(workload)
            self._latest_of(workload).append(workload.spec.id)

    def retire(self, workload_ids: Iterable[WorkloadId], settled: Iterable[WorkloadId] = ()) -> None:
        """Takes finished workloads, which are in the rows now, for old: beyond the limits the earliest are let go.

        Args:
            settled: dead letters whose rows say now that they are dealt with.
        """
        for workload_id in workload_ids:
            self._latest_of(self.workloads[workload_id]).append(workload_id)
        for workload_id in settled:
            self._settling.discard(workload_id)
            self._latest_of(self.workloads[workload_id]).append(workload_id)
        self._forget(self._finished, self._policy.keep_finished)
        self._forget(self._finished_inference, self._policy.keep_finished_inference)

    # -- reading -------------------------------------------------------------------------------------------------

    def quota_of(self, account: AccountId) -> Quota:
        """Returns what an account may hold."""
        return self.quotas.get(account, self._policy.default_quota)

    def live_on(self, node_id: NodeId) -> list[Workload]:
        """Returns the live workloads placed on a node, oldest placement first."""
        return [self.workloads[workload_id] for workload_id in self.on_node.get(node_id, ())]

    def check_invariants(self) -> None:
        """Asserts that the indexes agree with the dictionaries. For tests; visits everything."""
        invariants.check(self)

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
            account = spec.origin.account
            self.pending.add(spec.id, spec.priority, placement_request(spec), workload.not_before, account)
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
        workload.started_at = None
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
            self._usage_of(workload).take(workload.spec.demand)
            self.durations.started(shape_of(workload), place.at)

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
            self._give_back(workload)
            self.needs_round = self.needs_round or self.pending.ready > 0
        if workload.node_id in self.draining:
            self.drains_to_check[workload.node_id] = None
        workload.allocation = None
        del self.on_node[workload.node_id][workload.spec.id]

    def _usage_of(self, workload: Workload) -> Usage:
        account = workload.spec.origin.account
        usage = self.usage.get(account)
        if usage is None:
            usage = self.usage[account] = Usage()
        return usage

    def _give_back(self, workload: Workload) -> None:
        account = workload.spec.origin.account
        usage = self.usage[account]
        usage.take(workload.spec.demand, -1)
        if not usage.workloads:
            del self.usage[account]
        self.pending.unblock(account)

    def _note_duration(self, workload: Workload, at: datetime) -> None:
        if workload.allocation is not None and workload.placed_at is not None:
            self.durations.ended(shape_of(workload), (at - workload.placed_at).total_seconds())

    def _phase_changed(self, event: ev.WorkloadPhaseChanged) -> None:
        workload = self.workloads[event.workload_id]
        workload.phase = advance(workload.phase, event.phase)
        workload.message = event.message
        workload.ports = event.ports or workload.ports
        if event.phase is Phase.RUNNING:
            workload.started_at = event.at
            self._watch_overtime(workload, event.at)
            if workload.spec.replaces is not None:
                self._look_at_replaced(workload)

    def _watch_overtime(self, workload: Workload, started_at: datetime) -> None:
        if workload.spec.max_duration_s is not None:
            due = started_at + timedelta(seconds=workload.spec.max_duration_s) + self._policy.overtime_grace
            heappush(self.overtime, (due, workload.spec.id, workload.attempt))

    def _look_at_replaced(self, replacement: Workload) -> None:
        assert replacement.spec.replaces is not None
        old = self.workloads.get(replacement.spec.replaces)
        if old is not None and old.node_id in self.draining and old.node_id is not None:
            self.drains_to_check[old.node_id] = None

    def _evicted(self, event: ev.WorkloadEvicted) -> None:
        workload = self.workloads[event.workload_id]
        workload.phase = advance(workload.phase, Phase.STOPPING)
        workload.evicted = event.cause
        workload.message = event.message
        if event.cause is Eviction.OVERTIME:
            heappush(self.overtime, (event.at + self._policy.overtime_grace, event.workload_id, event.attempt))

    def _settled(self, event: ev.WorkloadSettled) -> None:
        workload = self.workloads[event.workload_id]
        workload.replayed_by = event.replayed_by
        workload.discarded = event.replayed_by is None
        self._settling.add(event.workload_id)

    def _drain_changed(self, event: ev.NodeDrainChanged) -> None:
        node = self.nodes[event.node_id]
        node.drain = event.drain
        if event.drain is not None and event.drain.done_at is None:
            self.draining[node.id] = self.drains_to_check[node.id] = None
        else:
            self.draining.pop(node.id, None)
            self.drains_to_check.pop(node.id, None)
        self._node_changed(node.id)

    def _quota_changed(self, event: ev.QuotaChanged) -> None:
        if event.quota is None:
            self.quotas.pop(event.account, None)
        else:
            self.quotas[event.account] = event.quota
        if self.pending.unblock(event.account):
            self.needs_round = True

    def _latest_of(self, workload: Workload) -> deque[WorkloadId]:
        return self._finished_inference if isinstance(workload.spec.payload, Inference) else self._finished

    def _requeued(self, event: ev.WorkloadRequeued) -> None:
        workload = self.workloads[event.workload_id]
        assert not workload.stop_requested, "what its owner stopped is not tried again"
        if not workload.spec.waiting:  # of those only the end is journalled, and it tells of one attempt
            ended = workload.record(event.at, event.reason, event.exit_code)
            workload.history = (*workload.history, ended)[-_ATTEMPTS_KEPT:]
        self._note_duration(workload, event.at)
        self._free(workload)
        workload.phase = requeue(workload.phase)
        workload.node_id = None
        workload.ports = ()
        workload.evicted = None
        workload.message = event.reason
        workload.restarts += event.restart
        workload.streak = (0 if event.rested else workload.streak) + event.restart
        workload.not_before = event.not_before if event.not_before > event.at else None
        self._enqueue(workload, event.at)
        if isinstance(workload.spec.payload, Inference):
            self.slots_freed[workload.spec.payload.model_id] = None  # another node may have a slot right now

    def _finish(self, event: ev.WorkloadFinished) -> None:
        workload = self.workloads[event.workload_id]
        if workload.phase is Phase.PENDING:
            self._dequeue(workload)
        self._note_duration(workload, event.at)
        self._free(workload)
        workload.phase = advance(workload.phase, event.phase)
        workload.message = event.message
        workload.result = event.result
        workload.finished_at = event.at
        if workload.spec.replaces is not None:
            self._look_at_replaced(workload)
        if isinstance(workload.spec.payload, Inference):
            self._count_inference(workload, event)

    def _forget(self, finished: deque[WorkloadId], limit: int) -> None:
        while len(finished) > limit:
            workload_id = finished.popleft()
            if workload_id in self._settling or workload_id not in self.workloads:
                continue  # it is told of again, or was, by the other fact of its that ``retire`` hears of
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
            self.routing.upsert_node(routing_node(node))

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
        self.placement.upsert(placement_node(node))
        self.routing.upsert_node(routing_node(node))
        if node.schedulable:
            self.needs_round = self.needs_round or self.pending.ready > 0
            self._wake(node)

    def _restore_workload(self, workload: Workload) -> None:
        self.workloads[workload.spec.id] = workload
        if workload.spec.request_id:
            self.requests[workload.spec.origin.account, workload.spec.request_id] = workload.spec.id
        if workload.phase.terminal:
            if workload.placed_at is not None and workload.finished_at is not None and workload.node_id is not None:
                self.durations.ended(shape_of(workload), (workload.finished_at - workload.placed_at).total_seconds())
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
                self._usage_of(workload).take(workload.spec.demand)
                if workload.started_at is not None:
                    self._watch_overtime(workload, workload.started_at)
