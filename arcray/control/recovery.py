"""Recovery: a memory from rows, at the start and after a commit that failed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from arcray.control.journal import Journal
from arcray.control.rows import durable_node
from arcray.core.before import Before
from arcray.core.cluster import Cluster, Ledger
from arcray.core.commands import Command, ReportModels, ReportTelemetry
from arcray.core.ledger import durable_account
from arcray.core.node import Health
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import AccountQuota

__all__ = ["as_on_disk", "load", "readings"]

_K = TypeVar("_K")
_V = TypeVar("_V")


async def load(journal: Journal, policy: ClusterPolicy, now: datetime, rules: type[Cluster] = Cluster) -> Cluster:
    """Returns a cluster that goes on from the rows.

    Raises:
        InternalError: a row cannot be read; names it.
        UnavailableError: the database cannot be read.
    """
    live = await journal.load(
        keep_finished=policy.keep_finished,
        keep_finished_inference=policy.keep_finished_inference,
        keep_reservations=policy.keep_reservations,
    )
    cluster = rules.restore(
        policy,
        nodes=live.nodes,
        workloads=live.workloads,
        models=live.models,
        reservations=live.reservations,
        now=now,
        ledger=live.ledger,
        keys=live.keys,
        revoked=live.revoked,
        quotas=live.quotas,
    )
    cluster.state.forgotten_until = live.left_out_until
    cluster.state.attempts_from = live.memory * policy.inference_attempts
    return cluster


def as_on_disk(memory: Cluster, before: Before, policy: ClusterPolicy, now: datetime) -> Cluster:
    """Returns a cluster as the rows have it for certain, without reading them.

    Where nobody knows whether the last commit came through, it is the one from before that commit.

    Args:
        memory: with events applied that may not be on disk; given up, and its values are used.
        before: how what these changed stood before.
    """
    state = memory.state
    workloads = {
        key: workload
        for key, workload in state.workloads.items()
        if workload.phase.terminal or not workload.spec.waiting
    }
    nodes = _taken_back(state.nodes, before.nodes)
    reservations = {each.id: each for each in state.reservations.all()}
    accounts = _taken_back(state.books.accounts, before.accounts)
    cluster = type(memory).restore(
        policy,
        nodes=[durable_node(node) for node in nodes.values()],
        workloads=list(_taken_back(workloads, before.workloads).values()),
        models=list(_taken_back(state.models, before.models).values()),
        reservations=list(_taken_back(reservations, before.reservations).values()),
        now=now,
        ledger=Ledger(
            accounts=[durable_account(account) for account in accounts.values()],
            entries=[entry for key, entry in state.books.requests.items() if key not in before.requests],
            forgetful=state.books.forgetful,
        ),
        keys=list(_taken_back(state.keys.keys, before.keys).values()),
        quotas=[
            AccountQuota(account=account, quota=quota)
            for account, quota in _taken_back(state.quotas, before.quotas).items()
        ],
    )
    cluster.state.forgotten_until = state.forgotten_until
    cluster.state.reservations.forgetful = state.reservations.forgetful
    cluster.state.attempts_from = state.attempts_from  # it gives none out: nothing is accepted while it serves
    return cluster


def _taken_back(now: Mapping[_K, _V], before: Mapping[_K, _V | None]) -> dict[_K, _V]:
    both = {**now, **before}  # keeps the order
    return {key: value for key, value in both.items() if value is not None}


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
