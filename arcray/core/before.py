"""Before: how things stood before events that are not on disk yet, so that memory can be taken back to what is.

A shell that cannot write, nor read what it has written, still knows by this what it may show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arcray.core import events as ev
from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.workload import Workload

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["Before"]


class Before:
    """Copies of what durable events changed, each taken before the first of them.

    Attributes:
        nodes, workloads, models: by id; None where there was none, or none that is stored.
    """

    __slots__ = ("models", "nodes", "workloads")

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node | None] = {}
        self.workloads: dict[WorkloadId, Workload | None] = {}
        self.models: dict[ModelId, Model | None] = {}

    def note(self, event: ev.Event, state: ClusterState) -> None:
        """Takes a copy of what a durable event is about to change."""
        match event:
            case ev.NodeAttached():
                self._note_node(event.registration.id, state)
            case ev.NodeHealthChanged() | ev.NodeDetached() | ev.NodeSchedulingChanged():
                self._note_node(event.node_id, state)
            case ev.ModelRegistered():
                self.models.setdefault(event.model.id, state.models.get(event.model.id))
            case ev.ModelRemoved():
                self.models.setdefault(event.model_id, state.models.get(event.model_id))
            case ev.TelemetryUpdated() | ev.BatteryRanLow() | ev.ModelsChanged() | ev.LogAppended():
                raise AssertionError(f"{type(event).__name__} is volatile")
            case _:
                if event.workload_id not in self.workloads:
                    known = state.workloads.get(event.workload_id)
                    if known is not None and not known.spec.waiting:
                        self.workloads[event.workload_id] = replace(known)
                    else:  # a request that someone waits for is stored with its end only
                        self.workloads[event.workload_id] = None

    def add(self, later: Before) -> None:
        """Takes in what happened after: of what is in both, the earlier copy stays."""
        self.nodes = later.nodes | self.nodes
        self.workloads = later.workloads | self.workloads
        self.models = later.models | self.models

    def _note_node(self, node_id: NodeId, state: ClusterState) -> None:
        if node_id not in self.nodes:
            known = state.nodes.get(node_id)
            self.nodes[node_id] = None if known is None else replace(known)
