"""A cluster on its own, without shell or nodes: for tests of the rules."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime, timedelta

from arcray.core import events as ev
from arcray.core.cluster import Cluster
from arcray.core.commands import (
    Attached,
    AttachNode,
    Command,
    ReportEnd,
    ReportModels,
    ReportPhase,
    Running,
    Schedule,
    StopWorkload,
    SubmitWorkload,
    Tick,
)
from arcray.core.events import Event
from arcray.core.ids import AccountId, ModelId, NodeId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.node import NodeRegistration
from arcray.core.pending import PendingQueue
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import AccountQuota
from arcray.core.turn import Outcome
from arcray.core.workload import Phase, Result, Workload, WorkloadSpec
from arcray.testing.builders import T0, a_node

__all__ = ["World", "candidates"]


def candidates(queue: PendingQueue) -> Iterator[WorkloadId]:
    """Begins a pass over a queue and yields its candidates; see ``Pass.candidates`` for what the reader owes."""
    queue.rounds.begin()
    return queue.rounds.candidates()


class World:
    """A cluster, the time, and the sentences that tests speak."""

    def __init__(self, policy: ClusterPolicy, now: datetime = T0) -> None:
        self.now = now
        self.cluster = Cluster(policy, now)

    def handle(self, command: Command) -> Outcome:
        """Handles a command now."""
        outcome = self.cluster.handle(command, self.now)
        # Here everything is as good as on disk.
        self.cluster.retire(
            [event.workload_id for event in outcome.events if isinstance(event, ev.WorkloadFinished)],
            [event.workload_id for event in outcome.events if isinstance(event, ev.WorkloadSettled)],
        )
        ended = (event.reservation_id for event in outcome.events if isinstance(event, ev.ReservationEnded))
        self.cluster.retire_reservations(ended)
        return outcome

    def attach(self, registration: NodeRegistration | None = None) -> int:
        """Attaches a node and returns its epoch."""
        outcome = self.handle(AttachNode(registration=registration or a_node()))
        assert isinstance(outcome.reply, Attached)
        return outcome.reply.epoch

    def attach_with(self, inventory: tuple[Running, ...], registration: NodeRegistration | None = None) -> Outcome:
        """Attaches a node on which work was found."""
        return self.handle(AttachNode(registration=registration or a_node(), inventory=inventory))

    def load(self, node_id: NodeId, slots: int = 1, model: str = "echo", epoch: int = 1) -> Outcome:
        """Reports that a node answers for one model."""
        models = (ModelSlots(model_id=ModelId(model), slots=slots),)
        return self.handle(ReportModels(node_id=node_id, epoch=epoch, models=models))

    def submit(self, spec: WorkloadSpec) -> Outcome:
        """Submits a workload."""
        return self.handle(SubmitWorkload(spec=spec))

    def workload(self, workload_id: WorkloadId) -> Workload:
        """Returns the state of a workload."""
        return self.cluster.state.workloads[workload_id]

    def replacement(self, copy: Workload) -> Workload:
        """Returns the latest workload that was begun to take the place of a copy of a model."""
        return [other for other in self.cluster.state.workloads.values() if other.spec.replaces == copy.id][-1]

    def report(self, workload: Workload, phase: Phase, **fields: object) -> Outcome:
        """Reports a phase or an end of a workload's present attempt from its node."""
        assert workload.node_id is not None
        node = self.cluster.state.nodes[workload.node_id]
        common = {
            "node_id": node.id,
            "epoch": node.epoch,
            "workload_id": workload.id,
            "attempt": workload.attempt,
            "phase": phase,
        } | fields
        report = ReportEnd if phase.terminal else ReportPhase
        return self.handle(report(**common))  # type: ignore[arg-type]  # a test names only the fields it is about

    def succeed(self, workload: Workload) -> Outcome:
        """Reports the good end of a workload."""
        return self.report(workload, Phase.SUCCEEDED, result=Result(exit_code=0))

    def later(self, seconds: float) -> tuple[Event, ...]:
        """Lets time pass, ticking whenever something is due; returns what happened."""
        until: datetime = self.now + timedelta(seconds=seconds)
        happened: list[Event] = []
        while (due := self.cluster.next_due()) is not None and due <= until:
            self.now = max(due, self.now)
            happened += self.handle(Tick()).events
        self.now = until
        return tuple(happened)

    def recovered(self) -> World:
        """Returns a world that goes on from what rows would hold of this one: all but credits and keys."""
        state = deepcopy(self.cluster.state)
        after = World(state.policy, self.now)
        after.cluster = Cluster.restore(
            state.policy,
            nodes=list(state.nodes.values()),
            workloads=list(state.workloads.values()),
            models=list(state.models.values()),
            reservations=state.reservations.all(),
            quotas=[AccountQuota(account=account, quota=quota) for account, quota in state.quotas.items()],
            now=self.now,
        )
        after.cluster.state.check_invariants()
        return after

    def stop(self, workload_id: WorkloadId, account: AccountId | None = None) -> Outcome:
        """Asks for the end of a workload."""
        return self.handle(StopWorkload(workload_id=workload_id, account=account))

    def run_round(self) -> Outcome:
        """Runs one scheduling round."""
        return self.handle(Schedule())

    def tick(self) -> Outcome:
        """Lets what is due be acted on."""
        return self.handle(Tick())
