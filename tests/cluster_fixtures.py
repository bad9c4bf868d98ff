"""One embedded cluster for all cluster tests: real Ray, real actors, real listeners, on ports that are free."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray

from arcray.client import Client
from arcray.config import Settings, load
from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.bootstrap import Arcray, up

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


def free_ports(number: int) -> list[int]:
    """Ports of loopback that are free, found together so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Takes about ten seconds, once per session; Ray's sockets need a short path."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    directory = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))
    first, second, grpc, serve = free_ports(4)
    settings = load(
        None,
        state_dir=directory / "state",
        gateway={"http_ports": (first, second), "grpc_port": grpc, "serve_port": serve, "drain_s": 3.0},
        node={
            "heartbeat_s": 0.5,
            "labels": {"suite": "cluster"},
            "models": {"python_path": (Path(__file__).parent / "cluster" / "models",)},
        },
    )
    arcray = up(
        settings,
        dashboard=False,
        ray_options={"num_cpus": 2, "object_store_memory": 100 * 2**20, "_temp_dir": str(directory / "ray")},
    )
    try:
        yield Cluster(arcray, settings)
    finally:
        arcray.down()
        shutil.rmtree(directory, ignore_errors=True)
