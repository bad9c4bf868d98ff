"""What placement and routing are told: nodes and workloads in their words."""

from __future__ import annotations

from collections.abc import Hashable

from arcray.core.lowering import features, wanted
from arcray.core.node import EnergySource, Health, Node, Telemetry
from arcray.core.placement.formulas import RoutingNode
from arcray.core.placement.request import PlacementNode, PlacementRequest
from arcray.core.workload import Inference, ModelServer, Workload, WorkloadSpec

__all__ = ["placement_node", "placement_request", "routing_node", "shape_of", "utilization"]


def placement_request(spec: WorkloadSpec) -> PlacementRequest:
    """Returns what a workload asks of placement; equal requests compare equal."""
    return PlacementRequest(
        demand=spec.demand,
        wants=wanted(spec.payload),
        selector=(*spec.selector, *spec.selector_terms) if spec.selector_terms else spec.selector,
        node_id=spec.node_id,
    )


def shape_of(workload: Workload) -> Hashable:
    """Returns what work has in common that waits for the same: what it asks of a node, or the model that it names.

    Equal as placement requests are, at a tenth of what making one costs: it is wanted at every start and every end.
    """
    spec = workload.spec
    payload = spec.payload
    if isinstance(payload, Inference):
        return payload.model_id
    runs = payload.model.format if isinstance(payload, ModelServer) else type(payload)
    return runs, spec.demand, spec.selector, spec.selector_terms, spec.node_id


def placement_node(node: Node) -> PlacementNode:
    """Returns a node as placement sees it."""
    return PlacementNode(
        id=node.id,
        capacity=node.registration.capacity,
        features=features(node.registration.capabilities),
        labels=node.labels,
        schedulable=node.open,
        attached=node.health is Health.HEALTHY,
        closed_gpus=node.cordoned_gpus,
        tier=node.registration.tier,
        max_held=node.registration.max_workloads,
    )


def routing_node(node: Node) -> RoutingNode:
    """Returns a node as routing sees it."""
    registration = node.registration
    telemetry = node.telemetry
    return RoutingNode(
        id=registration.id,
        schedulable=node.schedulable,
        geohash=registration.location.geohash,
        geozone=registration.location.geozone,
        cogen=telemetry is not None and telemetry.energy_source is EnergySource.COGEN,
        battery_level=telemetry.battery_level if telemetry else 1.0,
        utilization=utilization(telemetry) if telemetry else 0.0,
        last_seen_s=node.last_seen.timestamp(),
        admits_by_utilization=registration.capabilities.admits_by_utilization,
    )


def utilization(telemetry: Telemetry) -> float:
    """Returns how busy a node is as routing counts it: its GPUs where it has any, else its cores."""
    gpus = telemetry.gpus
    if not gpus:
        return telemetry.cpu_utilization
    total = 0.0
    for gpu in gpus:  # a generator would cost more than the sum
        total += gpu.utilization
    return total / len(gpus)
