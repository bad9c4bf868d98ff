"""The columns of the matrix: kinds of nodes that run work, what each offers, and how one of a kind joins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arcray.client import Client, NodeInfo, WorkOptions
from arcray.node.identity import hostname

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

__all__ = ["KINDS", "Kind", "Machine", "Offer", "joined"]

PATIENCE_S: Final = 60.0


class Offer(StrEnum):
    """What a node can be asked to do."""

    PROGRAM = "program"
    CONTAINER = "container"
    MODEL = "model"  # it keeps one loaded, and so answers requests for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of node.

    Args:
        driver: by which orders reach it.
        offers: what a node of it can do.
        joining: options of ``arcray agent`` by which one joins under a name; None where the cluster has one.
    """

    driver: str
    offers: frozenset[Offer]
    joining: Callable[[Cluster, str], Sequence[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node.

    Args:
        node_id: in the cluster.
        engine_id: what it calls itself on its containers.
        pid: below which its programs and models are.
    """

    kind: str
    node_id: str
    engine_id: str
    pid: int


def _socket(cluster: Cluster, path: str) -> str:
    return cluster.url.replace("http", "ws") + path


def _hivemind(cluster: Cluster, name: str) -> Sequence[str]:
    pool = f"127.0.0.1:{cluster.settings.gateway.grpc_port}"
    return "--pool", pool, "--listen", "127.0.0.1:0", "--user", name


def _claw(cluster: Cluster, name: str) -> Sequence[str]:
    return "--gateway", _socket(cluster, "/claw"), "--name", name


def _pool(cluster: Cluster, name: str) -> Sequence[str]:
    return "--gateway", _socket(cluster, "/ws"), "--name", name


KINDS: Final[Mapping[str, Kind]] = {
    "ray": Kind(driver="ray_actor", offers=frozenset(Offer)),
    "hivemind": Kind(driver="line", offers=frozenset({Offer.PROGRAM, Offer.CONTAINER}), joining=_hivemind),
    "claw": Kind(driver="line", offers=frozenset({Offer.CONTAINER}), joining=_claw),
    "pool": Kind(driver="line", offers=frozenset({Offer.PROGRAM, Offer.CONTAINER}), joining=_pool),
}


@contextmanager
def joined(cluster: Cluster, client: Client, directory: Path) -> Iterator[Mapping[str, Machine]]:
    """Has a machine of each kind join, as the command in a process of its own; yields them once all take work."""
    status = cluster.status(cluster.node_actor())
    ray = Machine(kind="ray", node_id=status["node_id"], engine_id=status["node_id"], pid=status["pid"])
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(_agent(name, kind.joining(cluster, _name(name)), directory / name))
            for name, kind in KINDS.items()
            if kind.joining is not None
        }
        machines = {"ray": ray}
        for name, process in processes.items():
            node = cluster.until(partial(_listed, client, name), f"{name} has joined", PATIENCE_S)
            (own,) = (directory / name / "node").glob(f"node-id.{hostname()}.*")
            machines[name] = Machine(kind=name, node_id=node.id, engine_id=own.read_text().strip(), pid=process.pid)
        _warm(client, machines)
        yield machines


@contextmanager
def _agent(protocol: str, options: Sequence[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "arcray.cli.main", "agent", "--protocol", protocol, *options]
    own = {"ARCRAY_NODE__MODELS__ENABLED": "false", "ARCRAY_AGENT_PASSWORD": "correct horse"}
    with subprocess.Popen([*words, "--state-dir", str(directory)], env={**os.environ, **own}) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0


def _name(kind: str) -> str:
    return f"matrix-{kind}"


def _listed(client: Client, kind: str) -> NodeInfo | None:
    names = [(node, {node.name, node.raw["externalId"]}) for node in client.nodes() if node.status != "offline"]
    return next((node for node, called in names if _name(kind) in called), None)


def _warm(client: Client, machines: Mapping[str, Machine]) -> None:
    """Waits until each machine has done something: one that has joined may not have told yet how large it is."""
    works = [
        client.submit_program("pass", options=WorkOptions(node_id=machine.node_id))
        for name, machine in machines.items()
        if Offer.PROGRAM in KINDS[name].offers
    ]
    for work in works:
        assert client.wait(work.id, timeout_s=PATIENCE_S).succeeded
