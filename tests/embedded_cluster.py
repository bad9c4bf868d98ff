"""What cluster tests say of the embedded cluster that they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from arcray.client import Client
from arcray.config import Settings
from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.bootstrap import Arcray

__all__ = ["Cluster"]

_T = TypeVar("_T")


class Cluster:
    """The running arcray and the sentences that tests speak of it."""

    def __init__(self, arcray: Arcray, settings: Settings) -> None:
        self.arcray = arcray
        self.settings = settings
        self.url = arcray.url

    def client(self) -> Client:
        return Client(self.url)

    def actor_names(self) -> set[str]:
        named = ray.util.list_named_actors(all_namespaces=True)
        return {each["name"] for each in named if each["namespace"] == NAMESPACE}

    def node_actor(self) -> str:
        (name,) = [name for name in self.actor_names() if name.startswith("arcray-node-")]
        return name

    def status(self, actor: str) -> dict[str, Any]:
        """What an actor says of itself, once it answers."""

        def ask() -> dict[str, Any] | None:
            try:
                handle: Any = ray.get_actor(actor, NAMESPACE)
                answer: dict[str, Any] = ray.get(handle.status.remote(), timeout=20)
            except (ray.exceptions.RayError, ValueError):
                return None
            return answer

        return self.until(ask, f"{actor} answers")

    def until(self, look: Callable[[], _T | None], what: str, timeout_s: float = 60.0) -> _T:
        """Returns what ``look`` finds, looking again until it finds something."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = look()
            if found is not None and found is not False:
                return found
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout_s:g} s: {what}")
