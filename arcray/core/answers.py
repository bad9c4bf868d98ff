"""Answers to queries: frozen snapshots of what is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import nlargest
from itertools import islice
from typing import TypeVar, assert_never

from arcray.core import queries as q
from arcray.core.audit_log import AuditPage, ReadAudit
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId, ModelId, NodeId
from arcray.core.ledger import Account, AccountView, Login
from arcray.core.model import Model
from arcray.core.node import Health, Node, NodeView
from arcray.core.outlook import explain
from arcray.core.quota import Usage
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.what_if import Simulate
from arcray.core.workload import (
    Inference,
    PayloadKind,
    Phase,
    Workload,
    WorkloadSpec,
    WorkloadView,
    kind_of,
)

__all__ = ["account_view", "answer", "check_page", "follows", "matches", "node_view", "workload_page", "workload_view"]

_T = TypeVar("_T")


def answer(state: ClusterState, query: q.Query, now: datetime) -> q.Answer:  # noqa: C901, PLR0911, PLR0912  one arm per query
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
            return _model_view(state, _model(state, query.model_id), _ready_on(state))
        case q.ListModels():
            chosen = [state.models[model_id] for model_id in sorted(state.models)]
            page, ready_on = _page(chosen, query.limit, query.offset), _ready_on(state)
            return q.ModelPage(models=tuple(_model_view(state, model, ready_on) for model in page), total=len(chosen))
        case q.GetReservation():
            return _reservation(state, query)
        case q.ListReservations():
            return _list_reservations(state, query)
        case q.GetStats():
            return _stats(state, now)
        case q.GetAccount():
            return account_view(_account(state, query), now)
        case q.ListAccounts():
            seen = [account for account in state.books.accounts.values() if query.account in (None, account.id)]
            accounts = _page(seen, query.limit, query.offset)
            return q.AccountPage(accounts=tuple(account_view(account, now) for account in accounts), total=len(seen))
        case q.GetStatement():
            _account(state, query)
            _page([], query.limit, 0)
            return q.Statement(lines=(), next=None)  # postings are in the rows only
        case q.FindKey():
            found = state.keys.find(query.digest)
            if found is None:
                raise NotFoundError("no such key", field="key")
            return found
        case q.FindLogin():
            account = state.books.accounts.get(query.account_id)
            if account is None or not account.secret:
                raise NotFoundError(f"nobody logs in as {query.account_id}", field="id")
            return Login(account=account.id, secret=account.secret)
        case q.ListKeys():
            mine = [key.id for key in state.keys.keys.values() if query.account in (None, key.account)]
            views = tuple(map(state.keys.view, _page(mine, query.limit, query.offset)))
            return q.KeyPage(keys=views, total=len(mine))
        case q.GetQueues():
            return q.Queues(readings=state.queues())
        case q.GetQuota():
            return _quota_view(state, query.account)
        case q.ListQuotas():
            return _list_quotas(state, query)
        case ReadAudit():
            _check_limits(query.limit, 0)
            return AuditPage(events=(), next=None)  # memory keeps no events; the shell has them
        case Simulate():
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
        meter=workload.meter,
        claim=workload.claim,
        eviction=workload.eviction,
        preemptions=workload.preemptions,
        not_before=workload.not_before,
        attempts=workload.attempts(),
        replayed_by=workload.replayed_by,
        dead=workload.dead,
    )


def account_view(account: Account, now: datetime) -> AccountView:
    """Returns a snapshot of an account."""
    return AccountView(
        id=account.id,
        opened_at=account.opened_at,
        limit=account.limit,
        overdraft=account.overdraft,
        available=account.available - account.reserved,
        held=account.held + account.reserved,
        spent=account.spent if account.window == account.window_at(now) else 0,
    )


def matches(query: q.ListWorkloads, workload: Workload) -> bool:
    """Returns whether a list shows the workload."""
    kind = kind_of(workload.spec.payload)
    return (
        (kind in query.kinds if query.kinds else kind is not PayloadKind.INFERENCE)
        and (not query.phases or workload.phase in query.phases)
        and (not query.dead or workload.dead)
        and query.facade in ("", workload.spec.origin.facade)
        and query.account in (None, workload.spec.origin.account)
        and query.node_id in (None, workload.node_id)
    )


def follows(query: q.ListWorkloads, spec: WorkloadSpec) -> bool:
    """Returns whether a workload comes after where the list goes on."""
    after = query.after
    return after is None or (spec.created_at, spec.id) < (after.created_at, after.id)


def check_page(query: q.ListWorkloads) -> None:
    """Checks what a list of workloads asks for.

    Raises:
        InvalidArgumentError: the page is too large or too far away.
    """
    _check_limits(query.limit, query.offset)
    if query.after is not None and query.offset:
        raise InvalidArgumentError("comes with no cursor", field="offset")
    if query.offset > q.OFFSET_LIMIT:
        raise InvalidArgumentError(f"is at most {q.OFFSET_LIMIT}; go on with the cursor of a page", field="offset")


def _check_limits(limit: int, offset: int) -> None:
    if not 0 <= limit <= q.PAGE_LIMIT:
        raise InvalidArgumentError(f"must be between 0 and {q.PAGE_LIMIT}", field="limit")
    if offset < 0:
        raise InvalidArgumentError("must not be negative", field="offset")


def _page(items: list[_T], limit: int, offset: int) -> list[_T]:
    _check_limits(limit, offset)
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
    check_page(query)
    chosen = [workload for workload in state.workloads.values() if matches(query, workload)]
    total = len(chosen) if query.after is None else None
    chosen = [workload for workload in chosen if follows(query, workload.spec)]
    wanted = query.offset + query.limit + 1  # one more says whether there is another page
    newest = nlargest(wanted, chosen, key=lambda workload: (workload.spec.created_at, workload.spec.id))
    return workload_page(query, [workload_view(workload) for workload in newest[query.offset :]], total)


def workload_page(query: q.ListWorkloads, views: Sequence[WorkloadView], total: int | None) -> q.WorkloadPage:
    """Returns the page.

    Args:
        views: what follows the page before, newest first; beyond the limit if there is more.
    """
    page = tuple(views[: query.limit])
    more = len(views) > len(page) > 0
    after = q.WorkloadCursor(created_at=page[-1].spec.created_at, id=page[-1].spec.id) if more else None
    return q.WorkloadPage(workloads=page, total=total, next=after)


def _account(state: ClusterState, query: q.GetAccount | q.GetStatement) -> Account:
    account = state.books.accounts.get(query.account_id)
    if account is None or query.account not in (None, account.id):
        raise NotFoundError(f"no account {query.account_id}", field="id")
    return account


def _quota_view(state: ClusterState, account: AccountId) -> q.QuotaView:
    return q.QuotaView(
        account=account,
        quota=state.quota_of(account),
        own=account in state.quotas,
        usage=replace(state.usage.get(account, Usage())),
        pending=state.waiting_of(account),
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


def _ready_on(state: ClusterState) -> dict[ModelId, list[NodeId]]:
    """Returns the nodes that answer for each model, by one walk however many models are asked about."""
    found: dict[ModelId, list[NodeId]] = {}
    for node in state.nodes.values():
        if node.health is Health.HEALTHY:
            for model_id in {slots.model_id for slots in node.models}:
                found.setdefault(model_id, []).append(node.id)
    return found


def _model_view(state: ClusterState, model: Model, ready_on: Mapping[ModelId, Sequence[NodeId]]) -> q.ModelView:
    return q.ModelView(
        model=model,
        servers=tuple(map(workload_view, state.copies.of(model.id))),
        lasting=state.copies.lasting(model.id),
        ready_on=tuple(sorted(ready_on.get(model.id, ()))),
    )


def _reservation(state: ClusterState, query: q.GetReservation) -> Reservation:
    reservation = state.reservations.get(query.reservation_id)
    if reservation is None or query.account not in (None, reservation.account):
        raise NotFoundError(f"no reservation {query.reservation_id}", field="id")
    return reservation


def _list_reservations(state: ClusterState, query: q.ListReservations) -> q.ReservationPage:
    chosen = [held for held in state.reservations.all() if query.account in (None, held.account)]
    chosen.sort(key=lambda held: (held.created_at, held.id), reverse=True)
    page = _page(chosen, query.limit, query.offset)
    return q.ReservationPage(reservations=tuple(page), total=len(chosen))


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
        imbalance=state.books.imbalance,
    )


def _quantile(ordered: list[float], q_: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q_ * len(ordered)))] if ordered else None
