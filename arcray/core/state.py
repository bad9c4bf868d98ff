"""The state of a cluster: dictionaries, the indexes derived from them, and ``apply``, the only writer of both.

What lives here: how a fact changes the state. What does not: which facts come about (handlers). ``apply`` never refuses
and never decides; an event that does not fit is our own bug and trips an assertion.

Preemption, gangs and reservations change it by ``policy_facts``, requests by ``inference_facts`` too. What always holds
is in ``invariants``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from datetime import datetime

from arcray.core import events as ev
from arcray.core.asked import placement_node, placement_request, routing_node, shape_of, utilization
from arcray.core.before import Before
from arcray.core.books import Books
from arcray.core.copies import Copies
from arcray.core.counts import InferenceCounts
from arcray.core.durations import Durations
from arcray.core.gang_queue import GangQueue
from arcray.core.holds import Claims, Reservations
from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.inference_facts import count_end, wait_again
from arcray.core.invariants import check_invariants
from arcray.core.keyring import KeyRing
from arcray.core.lifecycle import advance, requeue
from arcray.core.model import Model
from arcray.core.node import EnergySource, Health, Node
from arcray.core.operation_facts import apply_operation, give_back, look_at_replaced, take, watch_overtime
from arcray.core.pending import Lane, PendingQueue
from arcray.core.placement.engine import Engine
from arcray.core.placement.formulas import FORMULAS
from arcray.core.placement.preemption import Reclaimable
from arcray.core.placement.routing import RoutingIndex
from arcray.core.policy import ClusterPolicy
from arcray.core.policy_facts import (
    apply_policy,
    keep_place_no_longer,
    offer,
    stopping,
    wait_no_longer,
    wait_with_gang,
)
from arcray.core.queues import Queue, QueueReading
from arcray.core.quota import Quota, Usage
from arcray.core.slots import SlotQueue
from arcray.core.timers import LeaseTimers
from arcray.core.turns import SearchTurns
from arcray.core.workload import ATTEMPTS_KEPT, Inference, Phase, Priority, Workload, WorkloadSpec

__all__ = ["ClusterState"]


class ClusterState:
    """Everything the scheduler knows.

    Attributes:
        nodes: every node that ever attached and was not forgotten, in order of joining.
        workloads: live ones, and the newest finished ones.
        models: registered models.
        copies: live workloads that keep them loaded.
        books, keys: accounts with their credits; API keys.
        requests: (account, request id) -> workload, for as long as the workload is in memory.
        on_node: live placed workloads of each node.
        pending, waiting: work without a place, requests without a slot.
        gangs: the gangs that live workloads belong to.
        claims, reservations: what is booked on nodes without running there.
        reclaimable: work that may be ended for work of a higher priority.
        searches: whose turn it is to look for such work.
        room, nodes_changed: grow whenever there may be more room than before by any means, or a node is another one.
        placement, routing: indexes derived from nodes and allocations.
        dispatched: requests on nodes and their deadlines, in order of deadline.
        refused_until: when the patience of requests ends that their nodes have refused, counted from the first time.
        needs_models: nodes to be asked what they answer for: those that were there before this memory and have not said
            since, and those that have refused a request since they said.
        attempts_from: attempts of requests whose sender waits are counted from here. No row has them, so a memory that
            was lost may have given them out; each memory counts from a higher number than any before it.
        restored_at: when this memory was made from rows; None when it began empty.
        forgotten_until: no finished workload created later was let go of; None when none was.
        settling: dead letters that are not to be let go of before their rows say that they are dealt with.
        before: where copies of what is about to change go; the shell sets another for each batch that it writes.
        quotas: of the accounts that an operator gave one.
        usage: what each account holds, while it holds something.
        draining: nodes with a drain that has not come to its end.
        drains_to_check: those of them from which work has gone since somebody looked.
        overtime: heap of (when to look, workload, attempt) of work that may run only so long; what has ended is swept
            out of it when there are ``overtime_limit``.
        durations: what estimates are made of.
    """

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        self.started_at = started_at
        self.nodes: dict[NodeId, Node] = {}
        self.workloads: dict[WorkloadId, Workload] = {}
        self.models: dict[ModelId, Model] = {}
        self.copies = Copies(self.workloads)
        self.books = Books()
        self.keys = KeyRing()
        self.requests: dict[tuple[AccountId, str], WorkloadId] = {}
        self.on_node: dict[NodeId, dict[WorkloadId, None]] = {}
        self.pending = PendingQueue()
        self.waiting = SlotQueue()
        self.leases = LeaseTimers()
        # All have the same time on a node, so they come in order of deadline. Ordered, because taking the first out of
        # a plain dictionary again and again walks over what was taken before.
        self.dispatched: OrderedDict[WorkloadId, datetime] = OrderedDict()
        self.inference = InferenceCounts()
        self.placement = Engine()
        self.gangs = GangQueue()
        self.claims = Claims(self.placement)
        self.reservations = Reservations(self.placement)
        self.reclaimable = Reclaimable([Priority.NORMAL, Priority.BACKGROUND])
        self.searches = SearchTurns()
        self.room = 0
        self.nodes_changed = 0
        self.routing = RoutingIndex(
            FORMULAS[policy.score],
            saturation=policy.saturation,
            stale_after_s=policy.stale_after.total_seconds(),
        )
        self.needs_round = False
        self.refused_until: dict[WorkloadId, datetime] = {}
        self.needs_models: set[NodeId] = set()
        self.slots_freed: dict[ModelId, None] = {}
        self.attempts_from = 0
        self.restored_at: datetime | None = None
        self.forgotten_until: datetime | None = None
        self.before = Before()
        self.quotas: dict[AccountId, Quota] = {}
        self.usage: dict[AccountId, Usage] = {}
        self.draining: dict[NodeId, None] = {}
        self.drains_to_check: dict[NodeId, None] = {}
        self.overtime: list[tuple[datetime, WorkloadId, int]] = []
        self.overtime_limit = 1_024
        self.durations = Durations()
        self.policy = policy
        self._finished: deque[WorkloadId] = deque()
        self._finished_inference: deque[WorkloadId] = deque()
        self.settling: set[WorkloadId] = set()

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
                workload = stopping(self, event.workload_id)
                workload.stop_requested = True
                workload.stop_reason = event.reason
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
                self.node_changed(event.node_id)
            case (
                ev.NodeSchedulingChanged()
                | ev.NodeDrainChanged()
                | ev.NodeRelabelled()
                | ev.QuotaChanged()
                | ev.WorkloadSettled()
            ):
                apply_operation(self, event)
            case ev.ModelRegistered():
                self.models[event.model.id] = event.model
            case ev.ModelRemoved():
                del self.models[event.model_id]
            case ev.WorkloadCharged():
                self.books.charge(self.workloads[event.workload_id], event.meter, event.entry, event.at)
            case ev.AccountOpened() | ev.LoginSet() | ev.SpendingLimitSet() | ev.CreditsMoved():
                self.books.apply(event)
            case ev.KeyIssued() | ev.KeyRevoked() | ev.KeysUsed():
                self.keys.apply(event)
            case ev.BatteryRanLow() | ev.LogAppended():
                pass  # facts for readers; no state follows from them
            case _:
                apply_policy(self, event)

    def retire(self, workload_ids: Iterable[WorkloadId], settled: Iterable[WorkloadId] = ()) -> None:
        """Takes finished workloads, which are in the rows now, for old: beyond the limits the earliest are let go.

        Args:
            settled: dead letters whose rows say now that they are dealt with.
        """
        for workload_id in workload_ids:
            self.latest_of(self.workloads[workload_id]).append(workload_id)
        for workload_id in settled:
            self.settling.discard(workload_id)
            if workload_id in self.workloads:
                self.latest_of(self.workloads[workload_id]).append(workload_id)
        self._forget(self._finished, self.policy.keep_finished)
        self._forget(self._finished_inference, self.policy.keep_finished_inference)

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

    def quota_of(self, account: AccountId) -> Quota:
        """Returns what an account may hold."""
        return self.quotas.get(account, self.policy.default_quota)

    def waiting_of(self, account: AccountId) -> int:
        """Returns how many workloads of an account wait for a place, for whatever reason."""
        return self.pending.of_account(account) + self.gangs.beside.get(account, 0)

    def live_on(self, node_id: NodeId) -> list[Workload]:
        """Returns the live workloads placed on a node, oldest placement first."""
        return [self.workloads[workload_id] for workload_id in self.on_node.get(node_id, ())]

    def next_late(self) -> datetime | None:
        """Returns when the next request has been on its node for too long."""
        return next(iter(self.dispatched.values()), None)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many workloads and requests wait, and how many may."""
        policy, pending = self.policy, len(self.pending) + self.gangs.beside.total()
        return (
            QueueReading(queue=Queue.PENDING, length=pending, limit=policy.max_pending),
            QueueReading(queue=Queue.WAITING, length=len(self.waiting), limit=policy.max_waiting),
        )

    def check_invariants(self) -> None:
        """Asserts that the indexes agree with the dictionaries. For tests; visits everything."""
        check_invariants(self)

    # -- applying ------------------------------------------------------------------------------------------------

    def _submitted(self, event: ev.WorkloadSubmitted) -> None:
        spec = event.spec
        workload = Workload(spec=spec, joined_at=None if spec.gang is None else event.at)
        if spec.tariff is not None:
            self.books.charging = True
        self.workloads[spec.id] = workload
        if spec.request_id:
            self.requests[spec.origin.account, spec.request_id] = spec.id
        if spec.gang is not None:
            self.gangs.join(spec, event.at, event.at + self.policy.gang_timeout)
        self.copies.add(workload)
        self.enqueue(workload, event.at)

    def enqueue(self, workload: Workload, now: datetime) -> None:
        """Has a pending workload wait where its kind waits."""
        spec = workload.spec
        if isinstance(spec.payload, Inference):
            deadline = now + self.policy.routing_patience
            self.waiting.add(spec.id, spec.payload.model_id, spec.priority, deadline)
        elif spec.gang is not None:
            wait_with_gang(self, workload, now)
        else:
            lane = Lane(spec.origin.account, spec.replaces)
            request, may = placement_request(spec), workload.may_preempt
            self.pending.add(spec.id, spec.priority, request, workload.not_before, lane, may_preempt=may)
            self.needs_round = True

    def dequeue(self, workload: Workload) -> None:
        """Ends the wait of a pending workload, whatever it waits for."""
        spec = workload.spec
        if isinstance(spec.payload, Inference):
            self.waiting.remove(spec.id)
        elif workload.claim is not None:
            keep_place_no_longer(self, workload)
        elif spec.gang is not None:
            wait_no_longer(self, workload)
        else:
            self.pending.remove(spec.id)

    def _placed(self, event: ev.WorkloadPlaced) -> None:
        workload = self.workloads[event.workload_id]
        self.dequeue(workload)
        workload.phase = advance(workload.phase, Phase.PLACED)
        workload.attempt = event.attempt
        workload.not_before = None
        workload.placed_at = event.at
        workload.started_at = None  # that was another attempt's
        self._hold(workload, event)
        if isinstance(workload.spec.payload, Inference):
            self.inference.dispatched += 1
            self.dispatched[event.workload_id] = event.at + self.policy.inference_timeout

    def _hold(self, workload: Workload, place: ev.WorkloadPlaced) -> None:
        workload.node_id = place.node_id
        workload.allocation = place.allocation
        self.on_node[place.node_id][workload.spec.id] = None
        payload = workload.spec.payload
        if isinstance(payload, Inference):
            self.routing.acquire(place.node_id, payload.model_id)
        else:
            self.placement.allocate(place.node_id, place.allocation)
            offer(self, workload)
            take(self, workload.spec.origin.account, workload.spec.demand)
            self.durations.started(shape_of(workload), place.at)

    def more_room(self) -> None:
        """Takes note that what found no place may find one now."""
        self.room += 1
        self.needs_round = self.needs_round or self.pending.ready > 0

    def _free(self, workload: Workload) -> None:
        if workload.allocation is None or workload.node_id is None:
            return
        payload = workload.spec.payload
        if isinstance(payload, Inference):
            self.routing.release(workload.node_id, payload.model_id)
            del self.dispatched[workload.spec.id]
            if self.waiting.waits_for(payload.model_id):
                self.slots_freed[payload.model_id] = None
        else:
            self.placement.release(workload.node_id, workload.allocation)
            self.reclaimable.discard(workload.spec.id)
            self.claims.given_back(workload.spec.id)
            give_back(self, workload.spec.origin.account, workload.spec.demand)
            self.more_room()
        if workload.node_id in self.draining:
            self.drains_to_check[workload.node_id] = None
        workload.allocation = None
        del self.on_node[workload.node_id][workload.spec.id]

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
            watch_overtime(self, workload, event.at)
            if workload.spec.replaces is not None:
                look_at_replaced(self, workload)

    def latest_of(self, workload: Workload) -> deque[WorkloadId]:
        """Returns the ended workloads that are counted with this one, earliest end first."""
        return self._finished_inference if isinstance(workload.spec.payload, Inference) else self._finished

    def _requeued(self, event: ev.WorkloadRequeued) -> None:
        workload = self.workloads[event.workload_id]
        assert not workload.stop_requested, "what its owner stopped is not tried again"
        if not workload.spec.waiting:  # of those only the end is journalled, and it tells of one attempt
            ended = workload.record(event.at, event.reason, event.exit_code, refused=event.refused, begun=event.begun)
            workload.history = (*workload.history, ended)[-ATTEMPTS_KEPT:]
        self._note_duration(workload, event.at)
        self._free(workload)
        workload.phase = requeue(workload.phase, evicted=workload.eviction is not None)
        workload.eviction = None
        workload.node_id = None
        workload.ports = ()
        workload.message = event.reason
        workload.restarts += event.restart
        workload.streak = (0 if event.rested else workload.streak) + event.restart
        workload.refusals = workload.refusals + 1 if event.durable and (event.refused or event.gang_refused) else 0
        workload.not_before = event.not_before if event.not_before > event.at else None
        if workload.spec.gang is not None:
            self.gangs.give_up(workload.spec, event.reason, restart=event.restart)
        self.enqueue(workload, event.at)
        if isinstance(workload.spec.payload, Inference):
            wait_again(self, event, workload.spec.payload.model_id)

    def _finish(self, event: ev.WorkloadFinished) -> None:
        workload = self.workloads[event.workload_id]
        if workload.phase is Phase.PENDING:
            self.dequeue(workload)
        self._note_duration(workload, event.at)
        self._free(workload)
        workload.phase = advance(workload.phase, event.phase)
        workload.eviction = None
        if workload.spec.gang is not None:
            self.gangs.leave(workload.spec, event.phase, event.message)
        workload.message = event.message
        workload.result = event.result
        workload.finished_at = event.at
        if workload.spec.replaces is not None:
            look_at_replaced(self, workload)
        if isinstance(workload.spec.payload, Inference):
            count_end(self, workload, event)
            if workload.repeatable:
                self._free_key(workload.spec)
        else:
            self.copies.discard(workload)

    def _forget(self, finished: deque[WorkloadId], limit: int) -> None:
        while len(finished) > limit:
            workload_id = finished.popleft()
            # Else it is told of again, or was, by the other fact that ``retire`` hears of.
            if workload_id not in self.settling and workload_id in self.workloads:
                self._let_go(workload_id)

    def _let_go(self, workload_id: WorkloadId) -> None:
        spec = self.workloads.pop(workload_id).spec
        self._free_key(spec)
        if self.forgotten_until is None or spec.created_at > self.forgotten_until:
            self.forgotten_until = spec.created_at

    def _free_key(self, spec: WorkloadSpec) -> None:
        key = spec.origin.account, spec.request_id
        if spec.request_id and self.requests.get(key) == spec.id:
            del self.requests[key]

    def _telemetry(self, event: ev.TelemetryUpdated) -> None:
        node = self.nodes[event.node_id]
        node.last_seen = event.at
        telemetry = event.telemetry
        if telemetry is not None:
            node.telemetry = telemetry
            self.routing.read(
                event.node_id,
                last_seen_s=event.at.timestamp(),
                utilization=utilization(telemetry),
                cogen=telemetry.energy_source is EnergySource.COGEN,
                battery_level=telemetry.battery_level,
            )

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
        self.node_changed(registration.id)
        self.routing.set_models(registration.id, {})

    def _health_changed(self, event: ev.NodeHealthChanged) -> None:
        node = self.nodes[event.node_id]
        node.health = event.health
        if event.health is Health.HEALTHY:
            self.leases.watch(node.id, event.at, node.registration.lease)
        self.node_changed(event.node_id)

    def node_changed(self, node_id: NodeId) -> None:
        """Brings the indexes up to date after anything that placement asks about a node has changed."""
        node = self.nodes[node_id]
        if node.health is Health.GONE:
            self.leases.forget(node_id)
        self.placement.upsert(placement_node(node))
        self.routing.upsert_node(routing_node(node))
        self.nodes_changed += 1
        if node.schedulable or node_id in self.gangs.held:  # what is held back may be so for nothing now
            self.more_room()
            self._wake(node)
