"""Work of every protocol on a machine of every kind, and the table of it: who submitted, where it ran, or why not."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from arcray.client import Client, NodeInfo, WorkOptions
from arcray.core.resources import Demand
from examples.claw.attached import gateway_of
from examples.digits.job import Training
from examples.digits.promises import require
from examples.digits.report import Report
from examples.hivemind.machine import lending
from examples.hivemind.pool import Pool
from examples.machine import Start, agents
from examples.matrix.cordons import only
from examples.matrix.ways import WAYS, Cast, RefusedError, Way

__all__ = ["Everywhere"]

_SETTINGS: Final = {
    "ARCRAY_NODE__CPU_MILLI": "1000",
    "ARCRAY_NODE__MEMORY_BYTES": str(2 * 2**30),
    "ARCRAY_NODE__MODELS__ENABLED": "false",
}
_LIMIT_S: Final = 60.0


class Everywhere:
    """Every protocol on every kind of machine, on an arcray of one's own: nodes are cordoned meanwhile.

    Args:
        hivemind: where it serves HiveMind, ``host:port``.
        training: whose model is loaded.
    """

    def __init__(self, client: Client, hivemind: str, training: Training, report: Report) -> None:
        self._client = client
        self._hivemind = hivemind
        self._training = training
        self._report = report

    def run(self) -> None:
        """Has a machine of each kind join, then gives all work to each machine in turn."""
        with Pool(self._hivemind) as pool:
            sender, owner = pool.user("eve"), pool.user("dan")
            cast = Cast(
                client=self._client,
                user=sender,
                model="digits",
                trained_by=self._training.workload_id,
                digit=self._training.pixels[0],
            )
            (ray,) = self._client.model(cast.model).ready_on
            names = {kind: f"{kind}-{secrets.token_hex(3)}" for kind in ("claw", "pool")}
            with agents(lending(pool, owner), *(self._joining(kind, name) for kind, name in names.items())):
                machines = {
                    "Ray node": ray,
                    "HiveMind worker": self._node(owner.name).id,
                    "claw node": self._node(names["claw"]).id,
                    "pool device": self._node(names["pool"]).id,
                }
                self._warm([machines[kind] for kind in machines if kind != "claw node"])
                self._report.matrix = _rows({kind: self._give(node, cast) for kind, node in machines.items()})

    def _joining(self, protocol: str, name: str) -> Start:
        gateway = gateway_of(self._client.url, "ws" if protocol == "pool" else protocol)
        return Start(
            name=name,
            words=["--protocol", protocol, "--gateway", gateway, "--name", name],
            env=_SETTINGS,
            has_joined=lambda: any(name == node.name for node in self._client.nodes()),
        )

    def _node(self, name: str) -> NodeInfo:
        found = [node for node in self._client.nodes() if name in {node.name, node.raw["externalId"]}]
        require(len(found) == 1, f"{len(found)} machines are called {name}")
        return found[0]

    def _warm(self, node_ids: Sequence[str]) -> None:
        """Waits until each machine has done something: one that has joined may not have told yet how large it is."""
        demand = Demand(cpu_milli=100)
        options = [WorkOptions(name="warm", node_id=node_id, demand=demand) for node_id in node_ids]
        for work in [self._client.submit_program("pass", options=each) for each in options]:
            done = self._client.wait(work.id, timeout_s=_LIMIT_S)
            require(done.succeeded, f"{done.name} {done.phase}: {done.message}")

    def _give(self, node_id: str, cast: Cast) -> Sequence[str]:
        """Submits everything while one machine takes new work; returns what came of each."""
        with only(self._client, node_id), ThreadPoolExecutor(len(WAYS)) as threads:
            return list(threads.map(partial(_outcome, cast, node_id), WAYS))


def _outcome(cast: Cast, node_id: str, way: Way) -> str:
    missing = way.missing()
    if missing:
        return f"not run: {missing}"
    try:
        ran_on, result = way.submit(cast)
    except RefusedError as refusal:
        return f"no: {refusal}"
    require(ran_on == node_id, f"{way.work} of {way.protocol} ran on {ran_on}, not on {node_id}")
    return result


def _rows(outcomes: Mapping[str, Sequence[str]]) -> Sequence[Mapping[str, str]]:
    return [
        {"protocol": way.protocol, "work": way.work} | {kind: results[number] for kind, results in outcomes.items()}
        for number, way in enumerate(WAYS)
    ]
