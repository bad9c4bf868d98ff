"""Priorities, preemption, reservations and gangs under any order of events: nothing promised twice, nothing forgotten.

A machine of a few nodes is driven by random commands and reports. After each step the books must agree with what is
held, and at any time three things must be true: a gang's members are ordered to start all together or not at all; a
victim has a strictly higher number of priority than the one it is ended for, and had allowed it; and once everything
that was asked to end has ended, whatever fits has started. A preemptor whose victims have ended starts in that turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arcray.core import events as ev
from arcray.core.asked import placement_request
from arcray.core.commands import (
    AttachNode,
    Command,
    DetachNode,
    ReleaseReservation,
    ReportEnd,
    ReportPhase,
    ReportTelemetry,
    Reservable,
    Reserve,
    Running,
    SetNodeScheduling,
    StopWorkload,
    SubmitWorkload,
)
from arcray.core.errors import ArcrayError
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, NodeId, ReservationId, WorkloadId
from arcray.core.node import Health
from arcray.core.orders import StartWorkload
from arcray.core.placement.explain import Explanation
from arcray.core.placement.together import Shortfall, place_together
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.reservation import ReservationState
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.state import ClusterState
from arcray.core.turn import Outcome
from arcray.core.workload import Phase, Priority, RestartPolicy, RestartRule, Workload
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, node_id
from arcray.testing.world import World

POLICY: Final = ClusterPolicy(
    gang_timeout=timedelta(seconds=60),
    gang_patience=timedelta(seconds=20),
    restart_backoff=timedelta(seconds=1),
    round_decisions=3,  # so that what waits takes several
)
NODES: Final = 3

DEMANDS: Final = [
    Demand(cpu_milli=2000),
    Demand(cpu_milli=5000),
    Demand(cpu_milli=8000),
    Demand(cpu_milli=1000, gpus=1),
    Demand(cpu_milli=1000, gpus=2),
    Demand(cpu_milli=500, gpus=1, gpu_memory_bytes=30 * GIB),
    Demand(cpu_milli=500, gpus=1, gpu_memory_bytes=60 * GIB),
]
demands = st.sampled_from(DEMANDS)
priorities = st.sampled_from(list(Priority))
restarts = st.sampled_from([RestartPolicy(), RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=1)])
picks = st.integers(0, 10_000)


class Policies(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(POLICY, T0)
        self.numbers = iter(range(1, 100_000))
        self.done: dict[WorkloadId, Phase] = {}
        self.gang_numbers = 0
        self.claimed: dict[WorkloadId, NodeId] = {}

    # -- what is done ------------------------------------------------------------------------------------------------

    @initialize(gpus=st.lists(st.sampled_from([0, 1, 2]), min_size=NODES, max_size=NODES))
    def nodes_attach(self, gpus: list[int]) -> None:
        self.capacities = [a_capacity(gpus=count) for count in gpus]
        for number in range(NODES):
            self.attach(number)

    @rule(demand=demands, priority=priorities, preemptible=st.booleans(), restart=restarts)
    def submit(self, demand: Demand, priority: Priority, *, preemptible: bool, restart: RestartPolicy) -> None:
        self.do(
            SubmitWorkload(
                spec=a_workload(
                    next(self.numbers),
                    demand=demand,
                    priority=priority,
                    preemptible=preemptible,
                    restart=restart,
                    created_at=self.world.now,
                )
            )
        )

    @rule(demand=demands, count=st.integers(2, 5), priority=st.sampled_from([Priority.NORMAL, Priority.BACKGROUND]))
    def fill(self, demand: Demand, count: int, priority: Priority) -> None:
        for _ in range(count):
            self.submit(demand, priority, preemptible=True, restart=RestartPolicy())
        self.rounds()

    @rule(demand=demands, priority=st.sampled_from([Priority.CRITICAL, Priority.NORMAL]))
    def urge(self, demand: Demand, priority: Priority) -> None:
        self.submit(demand, priority, preemptible=False, restart=RestartPolicy())
        self.rounds()

    @rule(
        demand=demands,
        priority=priorities,
        size_and_missing=st.sampled_from([(1, 0), (2, 0), (3, 0), (4, 0), (2, 1)]),
        layout=st.sampled_from(Layout),
        restart=restarts,
    )
    def submit_gang(
        self,
        demand: Demand,
        priority: Priority,
        size_and_missing: tuple[int, int],
        layout: Layout,
        restart: RestartPolicy,
    ) -> None:
        size, missing = size_and_missing
        self.gang_numbers += 1
        gang = Gang(id=f"g{self.gang_numbers}", size=size, layout=layout)
        for _ in range(size - missing):
            number = next(self.numbers)
            spec = a_workload(
                number, demand=demand, priority=priority, gang=gang, restart=restart, created_at=self.world.now
            )
            self.do(SubmitWorkload(spec=spec))

    @rule(demand=demands, parts=st.integers(1, 2), layout=st.sampled_from(Layout), seconds=st.sampled_from([5, 60]))
    def reserve(self, demand: Demand, parts: int, layout: Layout, seconds: int) -> None:
        self.do(
            Reserve(
                reservation_id=ReservationId(f"r{next(self.numbers)}"),
                account=AccountId("local"),
                slices=(Reservable(demand=demand),) * parts,
                layout=layout,
                ttl_s=float(seconds),
            )
        )

    @rule(pick=picks, demand=demands)
    def take(self, pick: int, demand: Demand) -> None:
        active = [held for held in self.state.reservations.all() if held.state is ReservationState.ACTIVE]
        if active:
            spec = a_workload(
                next(self.numbers),
                demand=demand,
                reservation_id=active[pick % len(active)].id,
                created_at=self.world.now,
            )
            self.do(SubmitWorkload(spec=spec))

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        held = self.state.reservations.all()
        if held:
            self.do(ReleaseReservation(reservation_id=held[pick % len(held)].id))

    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        workload = self.pick(pick, lambda w: not w.phase.terminal)
        if workload:
            self.do(StopWorkload(workload_id=workload.id))

    @rule(pick=picks)
    def run(self, pick: int) -> None:
        workload = self.pick(pick, lambda w: w.phase is Phase.PLACED)
        if workload:
            self.report(workload, Phase.RUNNING)

    @rule(pick=picks, phase=st.sampled_from([Phase.SUCCEEDED, Phase.FAILED]), refused=st.booleans())
    def end(self, pick: int, phase: Phase, refused: bool) -> None:
        workload = self.pick(pick, lambda w: w.node_id is not None and not w.phase.terminal)
        if workload:
            self.report(workload, phase, refused=refused and workload.phase is Phase.PLACED)

    @rule(pick=picks)
    def end_as_asked(self, pick: int) -> None:
        workload = self.pick(pick, lambda w: w.phase is Phase.STOPPING)
        if workload:
            self.report(workload, Phase.STOPPED)

    @rule(number=st.integers(0, NODES - 1))
    def leave(self, number: int) -> None:
        node = self.state.nodes[node_id(number)]
        if node.health in (Health.HEALTHY, Health.UNHEALTHY):
            self.do(DetachNode(node_id=node.id, epoch=node.epoch))

    @rule(number=st.integers(0, NODES - 1), keeps=st.booleans())
    def come_back(self, number: int, keeps: bool) -> None:
        self.attach(number, keeps=keeps)

    @rule(number=st.integers(0, NODES - 1), cordoned=st.booleans())
    def cordon(self, number: int, cordoned: bool) -> None:
        self.do(SetNodeScheduling(node_id=node_id(number), cordoned=cordoned))

    @rule(seconds=st.sampled_from([1, 6, 25]), silent=st.sampled_from([None, None, 0, 1]))
    def wait(self, seconds: int, silent: int | None) -> None:
        self.beat(silent)
        self.remember(self.world.later(seconds))
        self.beat(silent)

    @rule()
    def run_round(self) -> None:
        self.watch(self.world.run_round())

    @precondition(lambda self: self.world.cluster.needs_round)
    @rule()
    def run_wanted_rounds(self) -> None:
        self.rounds()

    @rule()
    def recover(self) -> None:
        """From what rows hold the same decisions follow."""
        before = self.world.cluster
        after = self.world.recovered().cluster
        for node in after.state.nodes.values():
            assert after.state.placement.free(node.id) == before.state.placement.free(node.id)
        assert {key: w.claim for key, w in after.state.workloads.items()} == {
            key: w.claim for key, w in before.state.workloads.items()
        }
        self.world.cluster = after

    @rule()
    def settle(self) -> None:
        """When everything that was asked to end has ended, and time has passed, whatever fits has started."""
        for _ in range(40):
            ending = [w for w in self.state.workloads.values() if w.phase is Phase.STOPPING]
            for workload in ending:
                if self.reachable(workload):
                    self.report(workload, Phase.STOPPED)
            self.beat(None)
            self.remember(self.world.later(10))
            self.rounds()
            if not ending and not self.world.cluster.needs_round:
                break
        else:
            raise AssertionError("it never came to rest")
        self.nothing_that_fits_waits()

    def teardown(self) -> None:
        if hasattr(self, "capacities"):
            self.settle()

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        self.state.check_invariants()

    @invariant()
    def no_gpu_is_given_twice(self) -> None:
        for node in self.state.nodes.values():
            held: list[Allocation] = [w.allocation for w in self.state.live_on(node.id) if w.allocation is not None]
            held += self.state.reservations.held_on(node.id) + self.state.claims.kept_on(node.id)
            by_device: dict[int, list[GpuShare]] = {}
            for share in (share for allocation in held for share in allocation.gpus):
                by_device.setdefault(share.index, []).append(share)
            for gpu in node.registration.capacity.gpus:
                shares = by_device.pop(gpu.index, [])
                assert sum(share.memory_bytes for share in shares) <= gpu.memory_bytes
                assert len(shares) == 1 or not any(share.whole for share in shares)
            assert not by_device

    @invariant()
    def nothing_is_overcommitted(self) -> None:
        for node in self.state.nodes.values():
            free = self.state.placement.free(node.id)
            assert min(free.cpu_milli, free.memory_bytes, free.disk_bytes, free.gpus) >= 0

    @invariant()
    def a_gang_waits_or_runs_as_a_whole(self) -> None:
        for gang in self.state.gangs:
            members = [self.state.workloads[key] for key in gang.members]
            waiting = [w for w in members if w.phase is Phase.PENDING]
            running = [w for w in members if w.phase not in (Phase.PENDING, Phase.STOPPING)]
            assert not (waiting and running), gang.key

    def nothing_that_fits_waits(self) -> None:
        state = self.state
        if state.gangs.holder is not None:
            return  # what waits behind it waits on purpose
        now = self.world.now
        for workload in state.workloads.values():
            single = workload.id in state.pending and workload.spec.gang is None
            if single and (workload.not_before is None or workload.not_before <= now):
                assert isinstance(state.placement.place(placement_request(workload.spec)), Explanation)
        for gang in state.gangs:
            if gang.leader is not None and (gang.not_before is None or gang.not_before <= now):
                requests = [placement_request(state.workloads[key].spec) for key in gang.members]
                assert isinstance(place_together(state.placement, requests, gang.gang.layout), Shortfall)

    # -- how ---------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ClusterState:
        return self.world.cluster.state

    def do(self, command: Command) -> None:
        """Handles a command; being refused changes nothing."""
        with suppress(ArcrayError):
            self.watch(self.world.handle(command))

    def watch(self, outcome: Outcome) -> None:
        self.remember(outcome.events)
        started = {order.order.workload_id for order in outcome.orders if isinstance(order.order, StartWorkload)}
        for key in started:
            spec = self.state.workloads[key].spec
            if spec.gang is not None:
                gang = self.state.gangs.of(spec)
                assert len(gang.members) == spec.gang.size
                assert set(gang.members) <= started, "a part of a gang was ordered to start"
                self.check_layout(spec.gang, [self.state.workloads[member] for member in gang.members])

    def check_layout(self, gang: Gang, members: list[Workload]) -> None:
        nodes = {member.node_id for member in members}
        if gang.layout is Layout.PACK:
            assert len(nodes) == 1
        elif gang.layout is Layout.SPREAD:
            assert len(nodes) == gang.size

    def remember(self, events: tuple[ev.Event, ...]) -> None:
        for event in events:
            match event:
                case ev.WorkloadPreempted():
                    victim, by = self.state.workloads[event.workload_id], self.state.workloads[event.by]
                    assert victim.spec.preemptible
                    assert victim.spec.priority > by.spec.priority
                    assert not by.preemptions, "what was preempted preempts nobody"
                case ev.PlaceClaimed():
                    self.claimed[event.workload_id] = event.node_id
                case ev.ClaimEnded():
                    preemptor = self.state.workloads[event.workload_id]
                    node = self.state.nodes[self.claimed.pop(event.workload_id)]
                    assert preemptor.phase is Phase.PLACED or not node.schedulable, "its place was kept for nothing"
                case ev.WorkloadFinished():
                    assert event.workload_id not in self.done, "it ended twice"
                    self.done[event.workload_id] = event.phase
                case _:
                    pass

    def pick(self, pick: int, wanted: Callable[[Workload], bool]) -> Workload | None:
        found = [w for w in self.state.workloads.values() if wanted(w)]
        return found[pick % len(found)] if found else None

    def reachable(self, workload: Workload) -> bool:
        assert workload.node_id is not None
        return self.state.nodes[workload.node_id].health in (Health.HEALTHY, Health.UNHEALTHY)

    def report(self, workload: Workload, phase: Phase, *, refused: bool = False) -> None:
        assert workload.node_id is not None
        node = self.state.nodes[workload.node_id]
        common: dict[str, Any] = {
            "node_id": node.id,
            "epoch": node.epoch,
            "workload_id": workload.id,
            "attempt": workload.attempt,
        }
        if phase.terminal:
            self.do(ReportEnd(**common, phase=phase, refused=refused))
        else:
            self.do(ReportPhase(**common, phase=phase))

    def attach(self, number: int, *, keeps: bool = True) -> None:
        found = self.state.live_on(node_id(number)) if keeps else []
        inventory = tuple(Running(workload_id=w.id, attempt=w.attempt) for w in found)
        self.do(AttachNode(registration=a_node(number, capacity=self.capacities[number]), inventory=inventory))

    def beat(self, silent: int | None) -> None:
        for number in range(NODES):
            node = self.state.nodes[node_id(number)]
            if number != silent:
                self.do(ReportTelemetry(node_id=node.id, epoch=node.epoch))

    def rounds(self) -> None:
        for _ in range(200):
            if not self.world.cluster.needs_round:
                return
            self.watch(self.world.run_round())
        raise AssertionError("rounds go on for ever")


Policies.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestPolicies = Policies.TestCase
