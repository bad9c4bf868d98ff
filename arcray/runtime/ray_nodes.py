"""The ``Machines`` port over Ray: which nodes live, and actors that are pinned to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError

from arcray.config import Settings
from arcray.core.errors import UnavailableError
from arcray.core.quantity import milli_cpu
from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.actors import keep
from arcray.runtime.reconcile import RayNode

__all__ = ["RayNodes", "head_node_id", "node_of"]

_T = TypeVar("_T")
_HEAD: Final = "node:__internal_head__"


class RayNodes:
    """Ray's nodes as the reconciler sees them. Ray's calls block, so each runs in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def alive(self) -> Sequence[RayNode]:
        """Returns the nodes that are alive."""
        return [node_of(entry) for entry in await _in_thread(_entries)]

    async def ensure(self, node: RayNode, name: str, role: str) -> None:
        """Makes the node's actor unless it exists."""
        await _in_thread(lambda: self._create(node, name, role))

    async def retire(self, name: str) -> None:
        """Ends the actor of a node that is gone, for good."""
        await _in_thread(lambda: _kill(name))

    def _create(self, node: RayNode, name: str, role: str) -> None:
        from arcray.runtime.node_actor import NodeActor  # late: a tenth of a second that a restart has no time for

        keep(NodeActor, self._settings, node, name, role, name=name, node_id=node.id)


def head_node_id() -> str | None:
    """Returns Ray's id of the head node."""
    return next((node.id for node in map(node_of, _entries()) if node.head), None)


def node_of(entry: dict[str, Any]) -> RayNode:
    """Returns a node from what ``ray.nodes()`` says of it."""
    resources = entry["Resources"]
    return RayNode(
        id=entry["NodeID"],
        host=entry["NodeManagerHostname"],
        head=_HEAD in resources,
        cpu_milli=milli_cpu(resources.get("CPU", 0.0)),
        memory_bytes=int(resources.get("memory", 0)),
        gpus=int(resources.get("GPU", 0)),
    )


def _entries() -> list[dict[str, Any]]:
    return [entry for entry in ray.nodes() if entry["Alive"]]  # type: ignore[no-untyped-call]  # Ray's


async def _in_thread(work: Callable[[], _T]) -> _T:
    try:
        return await asyncio.to_thread(work)
    except RayError as error:
        raise UnavailableError(f"Ray does not answer: {error}") from error


def _kill(name: str) -> None:
    try:
        ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)
    except ValueError:
        return  # it is gone already
