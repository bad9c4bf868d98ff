"""Simulation: what would happen if. The same rules, on a copy of the live state that nobody else sees.

``image`` takes the copy and is quick, because it runs where the state changes; ``simulate`` needs nothing else of it
and may run in another thread. What things cost is left aside. Nodes of the copy obey at once: what they are asked to
start runs, what they are asked to stop has stopped, and the wait before a restart has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Final

from arcray.core import events as ev
from arcray.core.cluster import Cluster
from arcray.core.commands import (
    AttachNode,
    Command,
    DetachNode,
    DrainNode,
    ReportEnd,
    ReportPhase,
    Schedule,
    SubmitWorkload,
)
from arcray.core.errors import ArcrayError, InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.model import Model
from arcray.core.node import Health, Node
from arcray.core.orders import NodeOrder, StartWorkload, StopAttempt
from arcray.core.outlook import explain
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.state import ClusterState
from arcray.core.tariff import FREE
from arcray.core.what_if import Displaced, Simulate, SimulatedSubmission, Simulation
from arcray.core.workload import Inference, Phase, Workload, WorkloadSpec

__all__ = ["Image", "check", "image", "simulate"]

MOST_NODES: Final = 10_000  # added, removed or drained
MOST_SUBMISSIONS: Final = 1_000
MOST_PENDING: Final = 20_000  # copied; a place beyond it tells nobody anything
_ROUND: Final = 20  # decisions in one step, so that whoever paces it can
_MOST_NAMED: Final = 1_000  # workloads that an answer names
_LONG: Final = timedelta(days=366)

# Attributes at once: a third of what copying each by name costs (measured: 0.9 us for a workload).
_WORKLOAD_FIELDS: Final = tuple(field.name for field in fields(Workload))
_NODE_FIELDS: Final = tuple(field.name for field in fields(Node))
_of_workload: Final = attrgetter(*_WORKLOAD_FIELDS)
_of_node: Final = attrgetter(*_NODE_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The live state at one moment, as plain values; requests and ended work aside.

    Args:
        left_out: pending workloads beyond the limit.
    """

    nodes: tuple[tuple[Any, ...], ...]
    workloads: tuple[tuple[Any, ...], ...]
    models: tuple[Model, ...]
    reservations: tuple[Reservation, ...]
    quotas: tuple[AccountQuota, ...]
    left_out: int
    now: datetime


def check(wanted: Simulate) -> None:
    """Refuses what is too much.

    Raises:
        InvalidArgumentError: names the member.
    """
    for field, count, most in (
        ("addNodes", len(wanted.add_nodes), MOST_NODES),
        ("removeNodes", len(wanted.remove_nodes), MOST_NODES),
        ("drainNodes", len(wanted.drain_nodes), MOST_NODES),
        ("submit", len(wanted.submit), MOST_SUBMISSIONS),
    ):
        if count > most:
            raise InvalidArgumentError(f"may have {most}, got {count}", field=field)


def image(state: ClusterState, now: datetime) -> Image:
    """Returns a copy that does not change with the state."""
    placed = (workload_id for on_node in state.on_node.values() for workload_id in on_node)
    pending = [each.spec.id for each in state.workloads.values() if each.phase is Phase.PENDING and _takes_place(each)]
    kept = islice(pending, MOST_PENDING)
    chosen = map(state.workloads.__getitem__, chain(placed, kept))
    return Image(
        nodes=tuple(map(_of_node, state.nodes.values())),
        workloads=tuple(_of_workload(each) for each in chosen if _takes_place(each)),
        models=tuple(state.models.values()),
        reservations=tuple(r for r in state.reservations.all() if r.state is ReservationState.ACTIVE),
        quotas=tuple(AccountQuota(account=account, quota=quota) for account, quota in state.quotas.items()),
        left_out=max(0, len(pending) - MOST_PENDING),
        now=now,
    )


def _takes_place(workload: Workload) -> bool:
    return not isinstance(workload.spec.payload, Inference)


def simulate(taken: Image, policy: ClusterPolicy, wanted: Simulate, keep_on: Callable[[], None]) -> Simulation:
    """Returns what would happen.

    Args:
        keep_on: called between steps; what it raises ends the simulation.

    Raises:
        NotFoundError: no node of that id to remove or drain.
    """
    copy = _Copy(taken, policy, keep_on)
    works = copy.state.workloads.values()
    before = {each.spec.id: each.node_id for each in works if each.phase is not Phase.STOPPING}
    copy.end_what_is_stopping()
    for registration in wanted.add_nodes:
        copy.do(AttachNode(registration=registration))
    for node_id in wanted.remove_nodes:
        node = copy.node(node_id, "removeNodes")
        if node.health not in (Health.LOST, Health.GONE):
            copy.do(DetachNode(node_id=node_id, epoch=node.epoch, reason="removed"))
    for node_id in wanted.drain_nodes:
        copy.do(DrainNode(node_id=copy.node(node_id, "drainNodes").id, deadline_s=0.0, grace_s=0.0))
    refusals = {spec.id: copy.submit(spec) for spec in wanted.submit}
    copy.run()
    return _told(copy, wanted, before, refusals, taken.left_out)


class _Copy:
    def __init__(self, taken: Image, policy: ClusterPolicy, keep_on: Callable[[], None]) -> None:
        nodes = [Node(**dict(zip(_NODE_FIELDS, values, strict=True))) for values in taken.nodes]
        unhealthy = [node.id for node in nodes if node.health is Health.UNHEALTHY]
        workloads = [Workload(**dict(zip(_WORKLOAD_FIELDS, values, strict=True))) for values in taken.workloads]
        for workload in workloads:
            workload.meter = None
        keep_on()
        self.cluster = Cluster.restore(
            replace(policy, prices=FREE, round_decisions=min(policy.round_decisions, _ROUND)),
            nodes=nodes,
            workloads=workloads,
            models=taken.models,
            reservations=taken.reservations,
            quotas=taken.quotas,
            now=taken.now,
        )
        self.state = self.cluster.state
        self.now = taken.now
        self._keep_on = keep_on
        for node_id in unhealthy:  # recovery gives every lease a new term; here silence goes on
            self.state.apply(ev.NodeHealthChanged(node_id=node_id, health=Health.UNHEALTHY, at=taken.now))

    def node(self, node_id: NodeId, field: str) -> Node:
        node = self.state.nodes.get(node_id)
        if node is None:
            raise NotFoundError(f"no node {node_id}", field=field)
        return node

    def do(self, command: Command) -> None:
        """Handles a command and what nodes say to the orders that follow from it."""
        commands = deque([command])
        while commands:
            self._keep_on()
            for order in self.cluster.handle(commands.popleft(), self.now).orders:
                report = _obeyed(order)
                if report is not None:
                    commands.append(report)

    def end_what_is_stopping(self) -> None:
        """Has nodes obey what they were asked before; it is no consequence of what is asked now."""
        for workload in list(self.state.workloads.values()):
            if workload.phase is Phase.STOPPING and workload.node_id is not None:
                node = self.state.nodes[workload.node_id]
                self.do(_stopped(node.id, node.epoch, workload.spec.id, workload.attempt))

    def submit(self, spec: WorkloadSpec) -> str:
        try:
            self.do(SubmitWorkload(spec=replace(spec, tariff=None)))
        except ArcrayError as refusal:
            return str(refusal)
        return ""

    def told(self, spec: WorkloadSpec, refusal: str, account: AccountId | None) -> SimulatedSubmission:
        """Returns what became of what was submitted."""
        self._keep_on()
        return _submitted(self, spec, refusal, account)

    def run(self) -> None:
        """Places what can be placed."""
        self.state.needs_round = True
        while self.cluster.needs_round or self.state.pending.release_due(self.now + _LONG):
            self.do(Schedule())


def _obeyed(order: NodeOrder) -> Command | None:
    """Returns what a node says that does at once what it is asked."""
    what = order.order
    match what:
        case StartWorkload():
            return ReportPhase(
                node_id=order.node_id,
                epoch=order.epoch,
                workload_id=what.workload_id,
                attempt=what.attempt,
                phase=Phase.RUNNING,
            )
        case StopAttempt():
            return _stopped(order.node_id, order.epoch, what.workload_id, what.attempt)
        case _:
            return None


def _stopped(node_id: NodeId, epoch: int, workload_id: WorkloadId, attempt: int) -> ReportEnd:
    return ReportEnd(node_id=node_id, epoch=epoch, workload_id=workload_id, attempt=attempt, phase=Phase.STOPPED)


def _told(
    copy: _Copy,
    wanted: Simulate,
    before: dict[WorkloadId, NodeId | None],
    refusals: dict[WorkloadId, str],
    left_out: int,
) -> Simulation:
    state = copy.state
    displaced: list[Displaced] = []
    started: list[Workload] = []
    for workload_id, node_id in before.items():
        workload = state.workloads[workload_id]
        if node_id is None:
            if workload.allocation is not None:
                started.append(workload)
        elif workload.allocation is None or workload.node_id != node_id:
            displaced.append(_displaced(state, workload, node_id))
    return Simulation(
        submitted=tuple(copy.told(spec, refusals[spec.id], wanted.account) for spec in wanted.submit),
        displaced=tuple(
            islice((each for each in displaced if _shown(state, each.workload_id, wanted.account)), _MOST_NAMED)
        ),
        displaced_total=len(displaced),
        started=tuple(
            islice((each.spec.id for each in started if _shown(state, each.spec.id, wanted.account)), _MOST_NAMED)
        ),
        started_total=len(started),
        waiting=sum(1 for each in state.workloads.values() if each.phase is Phase.PENDING),
        left_out=left_out,
        now=copy.now,
    )


def _displaced(state: ClusterState, workload: Workload, node_id: NodeId) -> Displaced:
    goes_on = workload
    if workload.phase is Phase.STOPPED:  # a copy of a model, whose place another one took
        goes_on = state.copies.replacement_of(workload.id) or workload
    return Displaced(
        workload_id=workload.spec.id,
        name=workload.spec.name,
        node_id=node_id,
        moved_to=goes_on.node_id if goes_on.allocation is not None else None,
        phase=goes_on.phase,
        message=workload.message,
    )


def _submitted(copy: _Copy, spec: WorkloadSpec, refusal: str, account: AccountId | None) -> SimulatedSubmission:
    workload = copy.state.workloads.get(spec.id)
    if workload is None or refusal:
        return SimulatedSubmission(spec=spec, refusal=refusal or "it was not accepted")
    if workload.allocation is not None:
        return SimulatedSubmission(spec=spec, node_id=workload.node_id, allocation=workload.allocation)
    return SimulatedSubmission(spec=spec, explanation=explain(copy.state, workload, copy.now, account))


def _shown(state: ClusterState, workload_id: WorkloadId, account: AccountId | None) -> bool:
    return account in (None, state.workloads[workload_id].spec.origin.account)
