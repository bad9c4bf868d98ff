"""Rules about nodes: attaching, leaving, leases, readings.

Losing a node gives its work up: restartable work waits for another place, the rest fails. A node that comes back is
compared with what the cluster believes of it, and the cluster wins.
"""

from __future__ import annotations

from typing import Final

from arcray.core import events as ev
from arcray.core.commands import (
    Attached,
    AttachNode,
    DetachNode,
    Heard,
    ReportModels,
    ReportTelemetry,
    Running,
)
from arcray.core.errors import InvalidArgumentError, NotFoundError, StaleReportError
from arcray.core.handlers.attempts import give_up
from arcray.core.handlers.reservations import lose_missing, lose_reservations
from arcray.core.handlers.stopping import stop_order
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import EnergySource, Health, Node, Telemetry
from arcray.core.turn import Turn
from arcray.core.workload import Phase, Workload

__all__ = [
    "check_gpus",
    "current_node",
    "expire_leases",
    "known_node",
    "on_attach_node",
    "on_detach_node",
    "on_report_models",
    "on_report_telemetry",
    "set_scheduling",
]

LOW_BATTERY: Final = 0.2


def known_node(turn: Turn, node_id: NodeId) -> Node:
    """Returns the node.

    Raises:
        NotFoundError: no such node.
    """
    node = turn.state.nodes.get(node_id)
    if node is None:
        raise NotFoundError(f"no node {node_id}", field="nodeId")
    return node


def current_node(turn: Turn, node_id: NodeId, epoch: int) -> Node:
    """Returns the node when ``epoch`` is its present attachment.

    Raises:
        NotFoundError: no such node.
        StaleReportError: it attached again since, was lost, or left; it must attach again.
    """
    node = known_node(turn, node_id)
    if epoch != node.epoch or node.health in (Health.LOST, Health.GONE):
        raise StaleReportError(f"node {node_id} is {node.health} at epoch {node.epoch}, not {epoch}", field="epoch")
    return node


def on_attach_node(turn: Turn, command: AttachNode) -> Attached:
    """Takes a machine into the pool, or back into it."""
    registration = command.registration
    if (
        registration.lease.unhealthy_after_s <= 0
        or registration.lease.lost_after_s < registration.lease.unhealthy_after_s
    ):
        raise InvalidArgumentError("lost_after_s must not be below unhealthy_after_s", field="lease")
    known = turn.state.nodes.get(registration.id)
    epoch = known.epoch + 1 if known else 1
    turn.emit(ev.NodeAttached(registration=registration, epoch=epoch, at=turn.now))
    stop = _reconcile(turn, registration.id, command.inventory)
    lose_missing(turn, turn.state.nodes[registration.id])
    return Attached(node_id=registration.id, epoch=epoch, stop=stop)


def _reconcile(turn: Turn, node_id: NodeId, inventory: tuple[Running, ...]) -> tuple[Running, ...]:
    found = {work.workload_id: work.attempt for work in inventory}
    node = turn.state.nodes[node_id]
    matching: set[WorkloadId] = set()
    for workload in turn.state.live_on(node_id):
        if found.get(workload.spec.id) != workload.attempt:
            # Never reported: the order may not have arrived, so another attempt costs no restart.
            give_up(turn, workload, "its node came back without it", free_restart=workload.phase is Phase.PLACED)
            continue
        matching.add(workload.spec.id)
        if workload.phase is Phase.STOPPING:
            turn.order(node, stop_order(workload, 0.0))
    return tuple(work for work in inventory if work.workload_id not in matching)


def on_detach_node(turn: Turn, command: DetachNode) -> None:
    """Lets a machine go and gives its work up at once."""
    node = current_node(turn, command.node_id, command.epoch)
    turn.emit(ev.NodeDetached(node_id=node.id, reason=command.reason, at=turn.now))
    _abandon(turn, node.id, f"its node left: {command.reason}" if command.reason else "its node left")


def check_gpus(node: Node, gpus: frozenset[int]) -> None:
    """Refuses indices that the node does not have.

    Raises:
        InvalidArgumentError: names them.
    """
    present = {gpu.index for gpu in node.registration.capacity.gpus}
    if not gpus <= present:
        missing = ", ".join(map(str, sorted(gpus - present)))
        has = ", ".join(map(str, sorted(present))) or "none"
        raise InvalidArgumentError(f"node {node.id} has no GPU {missing}; it has {has}", field="gpus")


def set_scheduling(turn: Turn, node: Node, *, cordoned: bool, gpus: frozenset[int]) -> None:
    """States what of a node takes new work from now on, unless that holds already.

    Args:
        gpus: indices of the GPUs that are meant; empty means the node itself.
    """
    whole, closed = node.cordoned, node.cordoned_gpus
    if not gpus:
        whole = cordoned
    else:
        closed = closed | gpus if cordoned else closed - gpus
    if (whole, closed) != (node.cordoned, node.cordoned_gpus):
        turn.emit(ev.NodeSchedulingChanged(node_id=node.id, cordoned=whole, cordoned_gpus=closed, at=turn.now))


def on_report_telemetry(turn: Turn, command: ReportTelemetry) -> Heard:
    """Renews the lease and takes the reading."""
    node = current_node(turn, command.node_id, command.epoch)
    crossed = command.telemetry is not None and _ran_low(node.telemetry, command.telemetry)
    turn.emit(ev.TelemetryUpdated(node_id=node.id, telemetry=command.telemetry, at=turn.now))
    if node.health is Health.UNHEALTHY:
        turn.emit(ev.NodeHealthChanged(node_id=node.id, health=Health.HEALTHY, at=turn.now))
    if crossed and command.telemetry is not None:
        level = command.telemetry.battery_level
        turn.emit(ev.BatteryRanLow(node_id=node.id, battery_level=level, at=turn.now))
    return Heard(report_models=node.id in turn.state.needs_models)


def _ran_low(before: Telemetry | None, after: Telemetry) -> bool:
    return _is_low(after) and not (before is not None and _is_low(before))


def _is_low(reading: Telemetry) -> bool:
    return reading.energy_source is EnergySource.BATTERY and reading.battery_level <= LOW_BATTERY


def on_report_models(turn: Turn, command: ReportModels) -> None:
    """Takes the whole list of models that a node answers for now."""
    node = current_node(turn, command.node_id, command.epoch)
    for index, slots in enumerate(command.models):
        if slots.slots < 1:
            raise InvalidArgumentError("must be at least 1", field=f"models.{index}.slots")
    turn.emit(ev.ModelsChanged(node_id=node.id, models=command.models, at=turn.now))


def expire_leases(turn: Turn) -> None:
    """Acts on the leases that have run down."""
    for node_id, health in turn.state.leases.expired(turn.state.nodes, turn.now):
        turn.emit(ev.NodeHealthChanged(node_id=node_id, health=health, at=turn.now))
        if health is Health.LOST:
            _abandon(turn, node_id, "its node was lost")


def _abandon(turn: Turn, node_id: NodeId, reason: str) -> None:
    lose_reservations(turn, node_id, reason)
    workloads: list[Workload] = turn.state.live_on(node_id)
    for workload in workloads:
        give_up(turn, workload, reason)
