"""Nodes: cordoned, drained and labelled by the operator; attached, lost and gone; never given more than they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from arcray.core import events as ev
from arcray.core.commands import Command, DrainNode, LabelNode, SetNodeScheduling
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Node
from arcray.core.resources import Allocation, Capacity
from arcray.core.workload import WorkloadSpec
from arcray.testing.builders import node_id
from arcray.testing.simulation.nouns.cast import Cast
from arcray.testing.simulation.promise import must

__all__ = ["NodeFacts", "check_capacity", "draw_cordon", "draw_drain", "draw_labels"]


def draw_cordon(dice: Random, cast: Cast) -> Command:
    """Returns a cordon or its end, sometimes of a node that does not exist."""
    target = node_id(99) if dice.random() < 0.05 else dice.choice(cast.nodes).id
    return SetNodeScheduling(node_id=target, cordoned=dice.random() < 0.4, gpus=_gpus(dice))


def draw_drain(dice: Random, cast: Cast) -> Command:
    """Returns a drain of a node or of a GPU, with and without a deadline."""
    return DrainNode(
        node_id=dice.choice(cast.nodes).id,
        gpus=_gpus(dice),
        deadline_s=dice.choice((None, 0.0, 2.0, 10.0)),
        grace_s=dice.choice((0.0, 1.0)),
    )


def draw_labels(dice: Random, cast: Cast) -> Command:
    """Returns labels to lay over a node's own, or to take away."""
    return LabelNode(node_id=dice.choice(cast.nodes).id, labels={"zone": dice.choice(("a", "b", "x", None))})


def _gpus(dice: Random) -> frozenset[int]:
    return frozenset({dice.choice((0, 1))}) if dice.random() < 0.2 else frozenset()


class NodeFacts:
    """What is on disk of nodes.

    Attributes:
        known: by node: registration, epoch, health, cordoned, cordoned_gpus, drain, relabelled, joined_at.
    """

    def __init__(self) -> None:
        self.known: dict[NodeId, dict[str, Any]] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {
            ev.NodeAttached: self._attached,
            ev.NodeHealthChanged: self._lost,
            ev.NodeDetached: self._detached,
            ev.NodeSchedulingChanged: self._cordoned,
            ev.NodeDrainChanged: self._drained,
            ev.NodeRelabelled: self._relabelled,
        }

    def compare(self, node: Node, where: str) -> None:
        """Checks that a node is what the facts say of it; a lease that is running down is no durable fact."""
        facts = self.known.get(node.id)
        must(facts is not None, f"node {node.id} is in {where}, and never attached")
        for name, value in (facts or {}).items():
            found = getattr(node, name)
            if name == "health" and found == "unhealthy":
                found = "healthy"
            must(found == value, f"node {node.id}: {name} is {found!r} in {where}, and {value!r} by the facts")

    def check_drained(self, key: NodeId, workload_id: WorkloadId) -> None:
        """Checks that a node has a drain that has not come to its end."""
        drain = self.known[key]["drain"]
        must(drain is not None and drain.done_at is None, f"{workload_id} has to leave {key}, which is not drained")

    def check_open(self, key: NodeId, who: str, held: Allocation) -> None:
        """Checks that a node, and the GPUs that are given of it, take anything new."""
        must(key in self.known, f"{who} is placed on {key}, which never attached")
        node = self.known[key]
        must(node["health"] == "healthy", f"{who} is placed on {key}, which is {node['health']}")
        must(not node["cordoned"], f"{who} is placed on {key}, which is cordoned")
        drain, closed = node["drain"], node["cordoned_gpus"]
        must(drain is None or drain.gpus, f"{who} is placed on {key}, which is drained")
        must(all(share.index not in closed for share in held.gpus), f"{who} gets a GPU of {key} that is cordoned")

    def check_takes(self, key: NodeId, spec: WorkloadSpec, held: Allocation) -> None:
        """Checks that a node may be given this work."""
        self.check_open(key, spec.id, held)
        node = self.known[key]
        changed = {**node["registration"].labels, **node["relabelled"]}
        labels = {name: value for name, value in changed.items() if value is not None}
        must(set(spec.selector) <= set(labels.items()), f"{spec.id} wants {spec.selector}, {key} has {labels}")

    def check_fits(self, key: NodeId, held: Sequence[Allocation]) -> None:
        """Checks that all that is held of a node is there."""
        check_capacity(str(key), self.known[key]["registration"].capacity, held)

    def _attached(self, event: ev.NodeAttached) -> None:
        key = event.registration.id
        node = self.known.get(key)
        before = node["epoch"] if node else 0
        must(event.epoch == before + 1, f"node {key}: epoch {event.epoch} follows {before}")
        if node is None:
            node = self.known[key] = {
                "joined_at": event.at,
                "cordoned": False,
                "cordoned_gpus": frozenset(),
                "drain": None,
                "relabelled": {},
            }
        node.update(registration=event.registration, epoch=event.epoch, health="healthy")

    def _lost(self, event: ev.NodeHealthChanged) -> None:
        must(event.health == "lost", f"node {event.node_id}: {event.health} is no durable fact")
        must(self.known[event.node_id]["health"] == "healthy", f"node {event.node_id} is lost twice")
        self.known[event.node_id]["health"] = "lost"

    def _detached(self, event: ev.NodeDetached) -> None:
        must(self.known[event.node_id]["health"] == "healthy", f"node {event.node_id} leaves twice")
        self.known[event.node_id]["health"] = "gone"

    def _cordoned(self, event: ev.NodeSchedulingChanged) -> None:
        node = self.known[event.node_id]
        before = node["cordoned"], node["cordoned_gpus"]
        must(before != (event.cordoned, event.cordoned_gpus), f"node {event.node_id} changes nothing")
        node.update(cordoned=event.cordoned, cordoned_gpus=event.cordoned_gpus)

    def _drained(self, event: ev.NodeDrainChanged) -> None:
        must(self.known[event.node_id]["drain"] != event.drain, f"the drain of {event.node_id} changes nothing")
        self.known[event.node_id]["drain"] = event.drain

    def _relabelled(self, event: ev.NodeRelabelled) -> None:
        must(self.known[event.node_id]["relabelled"] != event.labels, f"the labels of {event.node_id} do not change")
        self.known[event.node_id]["relabelled"] = event.labels


def check_capacity(where: str, capacity: Capacity, held: Sequence[Allocation]) -> None:
    """Checks that a machine has what is held of it, and that no device is whole for one and held by another too."""
    must(sum(a.cpu_milli for a in held) <= capacity.cpu_milli, f"{where}: more processors are held than there are")
    must(sum(a.memory_bytes for a in held) <= capacity.memory_bytes, f"{where}: more memory is held than there is")
    there = {gpu.index: gpu.memory_bytes for gpu in capacity.gpus}
    for index in {share.index for a in held for share in a.gpus}:
        shares = [share for a in held for share in a.gpus if share.index == index]
        must(index in there, f"{where}: GPU {index} is held, and not there")
        must(
            sum(share.memory_bytes for share in shares) <= there[index],
            f"{where}: more memory of GPU {index} is held than it has",
        )
        must(len(shares) == 1 or not any(share.whole for share in shares), f"{where}: GPU {index} is held twice")
