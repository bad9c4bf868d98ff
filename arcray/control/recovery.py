"""Recovery: a memory from rows, at the start and after a commit that failed."""

from __future__ import annotations

from datetime import datetime

from arcray.control.journal import Journal
from arcray.core.cluster import Cluster
from arcray.core.commands import Command, ReportModels, ReportTelemetry
from arcray.core.node import Health
from arcray.core.policy import ClusterPolicy

__all__ = ["load", "readings"]


async def load(journal: Journal, policy: ClusterPolicy, now: datetime) -> Cluster:
    """Returns a cluster that goes on from the rows.

    Raises:
        InternalError: a row cannot be read; names it.
        UnavailableError: the database cannot be read.
    """
    live = await journal.load(
        keep_finished=policy.keep_finished, keep_finished_inference=policy.keep_finished_inference
    )
    cluster = Cluster.restore(
        policy, nodes=live.nodes, workloads=live.workloads, models=live.models, now=now, quotas=live.quotas
    )
    cluster.state.forgotten_until = live.left_out_until
    return cluster


def readings(before: Cluster, after: Cluster) -> list[Command]:
    """Returns what nodes had reported of themselves and rows do not hold, to be told to a rebuilt memory.

    A process that has just started has no such memory and asks the nodes instead (``Heard.report_models``).
    """
    told: list[Command] = []
    for node in before.state.nodes.values():
        rebuilt = after.state.nodes.get(node.id)
        if rebuilt is None or rebuilt.epoch != node.epoch or rebuilt.health is not Health.HEALTHY:
            continue
        if node.telemetry is not None:
            told.append(ReportTelemetry(node_id=node.id, epoch=node.epoch, telemetry=node.telemetry))
        if node.id not in before.state.needs_models:
            told.append(ReportModels(node_id=node.id, epoch=node.epoch, models=node.models))
    return told
