"""A batch: what was applied to memory, what one commit writes for it, and what waits for that commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from arcray.control.event_log import Tagged
from arcray.control.journal import Records
from arcray.control.rows import event_row, model_row, node_row, quota_row, workload_row
from arcray.core import events as ev
from arcray.core.errors import ArcrayError
from arcray.core.ids import AccountId, ModelId
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.orders import NodeOrder
from arcray.core.quota import AccountQuota, Quota
from arcray.core.state import ClusterState
from arcray.core.workload import Workload

__all__ = ["Batch", "Reply", "answer", "image"]

Reply: TypeAlias = "asyncio.Future[object]"


class Batch:
    """Everything that one commit covers.

    Attributes:
        events: durable ones, in the order applied.
        published: all events that someone reads, volatile ones that came after durable ones included.
        orders: to be delivered once it is on disk.
        replies: who is answered what once it is on disk; with an error when it fails.
        barriers: answered True once it is on disk, False when it fails.
        records: what is written; set when the batch is sealed.
    """

    __slots__ = ("barriers", "events", "orders", "published", "records", "replies")

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.published: list[Tagged] = []
        self.orders: list[NodeOrder] = []
        self.replies: list[tuple[Reply, object]] = []
        self.barriers: list[asyncio.Future[bool]] = []
        self.records: Records | None = None

    async def on_disk(self) -> bool:
        """Waits for its commit; returns whether it succeeded."""
        barrier: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.barriers.append(barrier)
        return await barrier

    def settle(self, *, error: ArcrayError | None = None) -> None:
        """Answers everyone who waits for it."""
        for future, value in self.replies:
            answer(future, error or value)
        for barrier in self.barriers:
            if not barrier.done():
                barrier.set_result(error is None)


def answer(future: Reply, value: object) -> None:
    """Gives a reply, unless its caller has gone."""
    if not future.done():
        future.set_result(value)


def image(events: Sequence[ev.Event], state: ClusterState) -> Records:
    """Returns what a transaction writes: these events, and the rows of what they are about as memory has them now.

    Rows are taken once per entity however many events it had. Memory must not be ahead of the events.
    """
    nodes: dict[str, Node] = {}
    workloads: dict[str, Workload] = {}
    models: dict[ModelId, Model | None] = {}
    quotas: dict[AccountId, Quota | None] = {}
    for event in events:
        match event:
            case ev.NodeAttached():
                nodes[event.registration.id] = state.nodes[event.registration.id]
            case (
                ev.NodeHealthChanged()
                | ev.NodeDetached()
                | ev.NodeSchedulingChanged()
                | ev.NodeDrainChanged()
                | ev.NodeRelabelled()
            ):
                nodes[event.node_id] = state.nodes[event.node_id]
            case ev.QuotaChanged():
                quotas[event.account] = state.quotas.get(event.account)
            case ev.ModelRegistered():
                models[event.model.id] = state.models.get(event.model.id)
            case ev.ModelRemoved():
                models[event.model_id] = state.models.get(event.model_id)
            case ev.TelemetryUpdated() | ev.BatteryRanLow() | ev.ModelsChanged() | ev.LogAppended():
                raise AssertionError(f"{type(event).__name__} is volatile")
            case _:
                workloads[event.workload_id] = state.workloads[event.workload_id]
    return Records(
        events=[event_row(event) for event in events],
        nodes=[node_row(node) for node in nodes.values()],
        workloads=[workload_row(workload) for workload in workloads.values()],
        models=[model_row(model) for model in models.values() if model is not None],
        removed_models=[model_id for model_id, model in models.items() if model is None],
        quotas=[
            quota_row(AccountQuota(account=account, quota=quota))
            for account, quota in quotas.items()
            if quota is not None
        ],
        removed_quotas=[account for account, quota in quotas.items() if quota is None],
    )
