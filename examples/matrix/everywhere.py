"""Work of every protocol on a machine of every kind, and the table of it: who submitted, where it ran, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from arcray.client import Client
from examples.digits.job import MODEL, Training
from examples.digits.promises import require
from examples.digits.report import Report
from examples.joined import Joined, Worker
from examples.matrix.cordons import only
from examples.matrix.ways import WAYS, Cast, RefusedError, Way

__all__ = ["Everywhere"]


class Everywhere:
    """Every protocol on every kind of machine, on an arcray of one's own: nodes are cordoned meanwhile.

    Args:
        training: whose model is loaded.
    """

    def __init__(self, client: Client, training: Training, report: Report) -> None:
        self._client = client
        self._training = training
        self._report = report

    def run(self, machines: Joined, worker: Worker) -> None:
        """Gives all work to each machine in turn."""
        cast = Cast(
            client=self._client,
            user=worker.pool.user("eve"),
            model=MODEL,
            trained_by=self._training.workload_id,
            digit=self._training.pixels[0],
        )
        (ray,) = self._client.model(MODEL).ready_on
        nodes = {
            "Ray node": ray,
            "HiveMind worker": worker.node.id,
            "claw node": machines.claw.id,
            "pool device": machines.device.id,
        }
        self._report.matrix = _rows({kind: self._give(node_id, cast) for kind, node_id in nodes.items()})

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
