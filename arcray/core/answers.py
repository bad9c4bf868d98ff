"""Answers to queries: frozen snapshots of what is in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import TypeVar, assert_never

from arcray.core import queries as q
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId, ModelId
from arcray.core.model import Model
from arcray.core.node import Health, Node, NodeView
from arcray.core.outlook import explain
from arcray.core.quota import Usage
from arcray.core.state import ClusterState
from arcray.core.workload import Inference, ModelServer, PayloadKind, Phase, Workload, WorkloadView, kind_of

__all__ = ["answer", "matches", "node_view", "workload_view"]

_T = TypeVar("_T")


def answer(state: ClusterState, query: q.Query, now: datetime) -> q.Answer:  # noqa: C901, PLR0911  one arm per query
    """Answers one query.

    Raises:
        NotFoundError: the thing asked for is not in memory, or not of that account.
        InvalidArgumentError: a page is larger than allowed.
    """
    match query:
        case q.GetNode():
            return node_view(state, _node(state, query))
        case q.ListNodes():
            return _list_nodes(state, query)
        case q.GetWorkload():
            return workload_view(_workload(state, query))
        case q.ListWorkloads():
            return _list_workloads(state, query)
        case q.ExplainWorkload():
            return explain(state, _workload(state, query), now, query.account)
        case q.GetModel():
            return _model_view(state, _model(state, query.model_id))
        case q.ListModels():
            chosen = [state.models[model_id] for model_id in sorted(state.models)]
            page = _page(chosen, query.limit, query.offset)
            return q.ModelPage(models=tuple(_model_view(state, model) for model in page), total=len(chosen))
        case q.GetStats():
            return _stats(state, now)
        case q.GetQuota():
            return _quota_view(state, query.account)
        case q.ListQuotas():
            return _list_quotas(state, query)
        case q.Simulate():
            raise AssertionError("simulations run on a copy, which the shell takes")
        case _:
            assert_never(query)


def node_view(state: ClusterState, node: Node) -> NodeView:
    """Returns a snapshot of a node."""
    free = state.placement.free(node.id)
    return NodeView(
        registration=node.registration,
        epoch=node.epoch,
        health=node.health,
        joined_at=node.joined_at,
        last_seen=node.last_seen,
        cordoned=node.cordoned,
        draining=node.draining,
        telemetry=node.telemetry,
        models=node.models,
        workloads=len(state.on_node[node.id]),
        cpu_milli_free=free.cpu_milli,
        memory_bytes_free=free.memory_bytes,
        cordoned_gpus=node.cordoned_gpus,
        drain=node.drain,
        labels=node.labels,
    )


def workload_view(workload: Workload) -> WorkloadView:
    """Returns a snapshot of a workload."""
    return WorkloadView(
        spec=workload.spec,
        phase=workload.phase,
        attempt=workload.attempt,
        restarts=workload.restarts,
        node_id=workload.node_id,
        allocation=workload.allocation,
        message=workload.message,
        result=workload.result,
        placed_at=workload.placed_at,
        started_at=workload.started_at,
        finished_at=workload.finished_at,
        ports=workload.ports,
        not_before=workload.not_before,
        attempts=workload.attempts(),
        replayed_by=workload.replayed_by,
        dead=workload.dead,
    )


def matches(query: q.ListWorkloads, workload: Workload) -> bool:
    """Returns whether a list shows the workload."""
    kind = kind_of(workload.spec.payload)
    return (
        (kind in query.kinds if query.kinds else kind is not PayloadKind.INFERENCE)
        and (not query.phases or workload.phase in query.phases)
        and (not query.dead or workload.dead)
        and query.account in (None, workload.spec.origin.account)
        and query.node_id in (None, workload.node_id)
    )


def _page(items: list[_T], limit: int, offset: int) -> list[_T]:
    if not 0 <= limit <= q.PAGE_LIMIT:
        raise InvalidArgumentError(f"must be between 0 and {q.PAGE_LIMIT}", field="limit")
    if offset < 0:
        raise InvalidArgumentError("must not be negative", field="offset")
    return list(islice(items, offset, offset + limit))


def _node(state: ClusterState, query: q.GetNode) -> Node:
    node = state.nodes.get(query.node_id)
    if node is None:
        raise NotFoundError(f"no node {query.node_id}", field="nodeId")
    return node


def _list_nodes(state: ClusterState, query: q.ListNodes) -> q.NodePage:
    chosen = [node for node in state.nodes.values() if query.facade in ("", node.registration.facade)]
    page = _page(chosen, query.limit, query.offset)
    return q.NodePage(nodes=tuple(node_view(state, node) for node in page), total=len(chosen))


def _workload(state: ClusterState, query: q.GetWorkload | q.ExplainWorkload) -> Workload:
    workload = state.workloads.get(query.workload_id)
    account = query.account
    if workload is None or account not in (None, workload.spec.origin.account):
        raise NotFoundError(f"no workload {query.workload_id}", field="id")
    return workload


def _list_workloads(state: ClusterState, query: q.ListWorkloads) -> q.WorkloadPage:
    chosen = [workload for workload in state.workloads.values() if matches(query, workload)]
    chosen.sort(key=lambda workload: (workload.spec.created_at, workload.spec.id), reverse=True)
    page = _page(chosen, query.limit, query.offset)
    return q.WorkloadPage(workloads=tuple(map(workload_view, page)), total=len(chosen))


def _quota_view(state: ClusterState, account: AccountId) -> q.QuotaView:
    return q.QuotaView(
        account=account,
        quota=state.quota_of(account),
        own=account in state.quotas,
        usage=replace(state.usage.get(account, Usage())),
        pending=state.pending.of_account(account),
    )


def _list_quotas(state: ClusterState, query: q.ListQuotas) -> q.QuotaPage:
    chosen = sorted({*state.quotas, *state.usage})
    page = _page(chosen, query.limit, query.offset)
    return q.QuotaPage(quotas=tuple(_quota_view(state, account) for account in page), total=len(chosen))


def _model(state: ClusterState, model_id: ModelId) -> Model:
    model = state.models.get(model_id)
    if model is None:
        raise NotFoundError(f"no model {model_id}", field="name")
    return model


def _model_view(state: ClusterState, model: Model) -> q.ModelView:
    servers = (
        workload
        for workload in state.workloads.values()
        if not workload.phase.terminal
        and isinstance(workload.spec.payload, ModelServer)
        and workload.spec.payload.model.id == model.id
    )
    ready_on = sorted(
        node.id
        for node in state.nodes.values()
        if node.health is Health.HEALTHY and any(slots.model_id == model.id for slots in node.models)
    )
    return q.ModelView(model=model, servers=tuple(map(workload_view, servers)), ready_on=tuple(ready_on))


def _stats(state: ClusterState, now: datetime) -> q.ClusterStats:
    counts = state.inference
    live: Counter[Phase] = Counter()
    in_flight = 0
    for workload in state.workloads.values():
        if workload.phase.terminal:
            continue
        if isinstance(workload.spec.payload, Inference):
            in_flight += 1
        else:
            live[workload.phase] += 1
    ordered = sorted(counts.latencies_ms)
    return q.ClusterStats(
        nodes=tuple(node_view(state, node) for node in state.nodes.values()),
        workloads=dict(live),
        inference=q.InferenceStats(
            dispatched=counts.dispatched,
            completed=counts.completed,
            failed=counts.failed,
            rejected=counts.rejected,
            in_flight=in_flight,
            latency_ms_p50=_quantile(ordered, 0.50),
            latency_ms_p99=_quantile(ordered, 0.99),
        ),
        uptime_s=(now - state.started_at).total_seconds(),
    )


def _quantile(ordered: list[float], q_: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q_ * len(ordered)))] if ordered else None
