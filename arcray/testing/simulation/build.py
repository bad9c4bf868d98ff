"""What is simulated: the product's own parts. A test of the simulation puts parts with planted bugs in their place."""

from __future__ import annotations

from dataclasses import dataclass

from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.core.cluster import Cluster
from arcray.node.agent import NodeAgent

__all__ = ["Build"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The parts."""

    rules: type[Cluster] = Cluster
    plane: type[Plane] = Plane
    journal: type[Journal] = Journal
    agent: type[NodeAgent] = NodeAgent
