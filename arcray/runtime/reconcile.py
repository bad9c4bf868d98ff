"""Reconcile: one node actor per alive Ray node, for ever. No Ray: it sees the ``Machines`` port.

What lives here: comparing what is with what shall be. What does not: leases (core decides on silence), restarts of an
actor on a living node (Ray's). Nothing is remembered between turns except what was done already, so a restarted
scheduler begins with the same question: which nodes live, and has each its actor?
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from arcray.core.errors import ArcrayError
from arcray.core.ports import Clock

__all__ = ["Machines", "RayNode", "Reconciler", "actor_name", "roles"]

_log = logging.getLogger(__name__)

_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNode:
    """One alive node of the Ray cluster.

    Args:
        id: Ray's id; new at every start of Ray there.
        host: host name of the machine.
        head: whether it is the head node.
        cpu_milli, memory_bytes, gpus: what it declared to Ray.
    """

    id: str
    host: str
    head: bool
    cpu_milli: int
    memory_bytes: int
    gpus: int


class Machines(Protocol):
    """The Ray cluster's nodes and their actors."""

    async def alive(self) -> Sequence[RayNode]:
        """Returns the nodes that are alive.

        Raises:
            UnavailableError: Ray's head does not answer.
        """
        ...

    async def ensure(self, node: RayNode, name: str, role: str) -> None:
        """Makes the node's actor unless it exists."""
        ...

    async def retire(self, name: str) -> None:
        """Ends the actor of a node that is gone, for good."""
        ...


class Reconciler:
    """Keeps node actors."""

    def __init__(self, machines: Machines, clock: Clock, *, every_s: float = _EVERY_S) -> None:
        self._machines = machines
        self._clock = clock
        self._every_s = every_s
        self._kept: dict[str, str] = {}

    async def run(self) -> None:
        """Reconciles until it is cancelled."""
        while True:
            try:
                await self.turn()
            except ArcrayError as error:
                _log.warning("cannot reconcile nodes now", extra={"reason": str(error)})
            await self._clock.sleep(self._every_s)

    async def turn(self) -> None:
        """Reconciles once.

        Raises:
            UnavailableError: Ray does not answer; what was left undone is done next time.
        """
        alive = await self._machines.alive()
        given = roles(alive)
        for node in alive:
            if node.id not in self._kept:
                name = actor_name(node.id)
                await self._machines.ensure(node, name, given[node.id])
                self._kept[node.id] = name
                _log.info("node actor kept", extra={"actor": name, "host": node.host})
        for node_id in self._kept.keys() - {node.id for node in alive}:
            await self._machines.retire(self._kept[node_id])
            name = self._kept.pop(node_id)
            _log.info("node actor retired", extra={"actor": name})


def actor_name(ray_node_id: str) -> str:
    """Returns the name of the actor of a Ray node."""
    return f"arcray-node-{ray_node_id[:12]}"


def roles(alive: Sequence[RayNode]) -> dict[str, str]:
    """Returns the role of each node by id: "" for the first of its host, which is the machine itself to us.

    Only tests run several Ray nodes on one host; the others take their identity from Ray's id.
    """
    given: dict[str, str] = {}
    hosts: set[str] = set()
    for node in sorted(alive, key=lambda each: (not each.head, each.id)):
        given[node.id] = "" if node.host not in hosts else node.id[:12]
        hosts.add(node.host)
    return given
