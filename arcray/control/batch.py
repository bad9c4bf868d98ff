"""A batch: what was applied to memory, what one commit writes for it, and what waits for that commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from arcray.control.event_log import Tagged
from arcray.control.journal import Records
from arcray.control.ledger_rows import account_row, entry_row, key_row, posting_rows
from arcray.control.rows import event_row, model_row, node_row, quota_row, reservation_row, workload_row
from arcray.control.tallies import changes, tally_rows
from arcray.core import events as ev
from arcray.core.before import Before
from arcray.core.errors import ArcrayError
from arcray.core.ids import AccountId, KeyId, ModelId, ReservationId
from arcray.core.ledger import Entry
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.orders import NodeOrder
from arcray.core.quota import AccountQuota, Quota
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.workload import Workload

__all__ = ["Barrier", "Batch", "Reply", "answer", "image"]


class Reply(Protocol):
    """Who waits for an answer; a future is one."""

    def done(self) -> bool:
        """Returns whether nobody waits any more."""
        ...

    def set_result(self, result: object, /) -> None:
        """Takes the answer, once."""
        ...


class Barrier(Protocol):
    """Who waits for a commit; a future is one."""

    def done(self) -> bool:
        """Returns whether nobody waits any more."""
        ...

    def set_result(self, on_disk: bool, /) -> None:
        """Takes whether it succeeded, once."""
        ...


class Batch:
    """Everything that one commit covers.

    Attributes:
        events: durable ones, in the order applied.
        before: how what they changed stood before the first of them.
        published: all events that someone reads, volatile ones that came after durable ones included.
        orders: to be delivered once it is on disk.
        replies: who is answered what once it is on disk; with an error when it fails.
        barriers: answered True once it is on disk, False when it fails.
        records: what is written; set when the batch is sealed.
    """

    __slots__ = ("barriers", "before", "events", "orders", "published", "records", "replies")

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.before = Before()
        self.published: list[Tagged] = []
        self.orders: list[NodeOrder] = []
        self.replies: list[tuple[Reply, object]] = []
        self.barriers: list[Barrier] = []
        self.records: Records | None = None

    async def on_disk(self) -> bool:
        """Waits for its commit; returns whether it succeeded."""
        barrier: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.barriers.append(barrier)
        return await barrier

    def settle(self, *, error: ArcrayError | None = None) -> None:
        """Answers everyone who waits for it."""
        for reply, value in self.replies:
            answer(reply, error or value)
        for barrier in self.barriers:
            if not barrier.done():
                barrier.set_result(error is None)


def answer(reply: Reply, value: object) -> None:
    """Gives an answer, unless its caller has gone."""
    if not reply.done():
        reply.set_result(value)


def image(  # noqa: C901, PLR0912  one arm per sort of event
    events: Sequence[ev.Event], before: Before, state: ClusterState
) -> Records:
    """Returns what a transaction writes: these events, and the rows of what they are about as memory has them now.

    Rows are taken once per entity however many events it had. Memory must not be ahead of the events.

    Args:
        before: how what the events changed stood before them.
    """
    nodes: dict[str, Node] = {}
    workloads: dict[str, Workload] = {}
    models: dict[ModelId, Model | None] = {}
    accounts: dict[AccountId, None] = {}
    entries: list[Entry] = []
    keys: dict[KeyId, None] = {}
    reservations: dict[ReservationId, Reservation] = {}
    quotas: dict[AccountId, Quota | None] = {}
    for event in events:
        match event:
            case ev.WorkloadSubmitted() | ev.WorkloadPlaced() | ev.WorkloadPhaseChanged() | ev.WorkloadFinished():
                workloads[event.workload_id] = state.workloads[event.workload_id]  # first: nearly all are these
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
            case ev.AccountOpened() | ev.LoginSet() | ev.SpendingLimitSet():
                accounts[event.account_id] = None
            case ev.CreditsMoved():
                entries.append(event.entry)
            case ev.WorkloadCharged():
                workloads[event.workload_id] = state.workloads[event.workload_id]
                entries += () if event.entry is None else (event.entry,)
                # What it has spent of its limit may change without an entry: who owns the node pays themselves.
                payer = state.workloads[event.workload_id].spec.origin.account
                accounts |= {payer: None} if payer in state.books.accounts else {}
            case ev.KeyIssued():
                keys[event.key.id] = None
            case ev.KeyRevoked():
                keys[event.key_id] = None
            case ev.ReservationGranted() | ev.ReservationTaken() | ev.ReservationEnded():
                reservation = state.reservations.get(event.reservation_id)
                assert reservation is not None, "it is let go of only once it is on disk"
                reservations[reservation.id] = reservation
            case ev.TelemetryUpdated() | ev.BatteryRanLow() | ev.ModelsChanged() | ev.LogAppended() | ev.KeysUsed():
                raise AssertionError(f"{type(event).__name__} is volatile")
            case _:
                workloads[event.workload_id] = state.workloads[event.workload_id]
    accounts |= {posting.account: None for entry in entries for posting in entry.postings}
    valid = state.keys.keys
    return Records(
        events=[event_row(event, workloads.get(getattr(event, "workload_id", ""))) for event in events],
        nodes=[node_row(node) for node in nodes.values()],
        workloads=[workload_row(workload) for workload in workloads.values()],
        tallies=tally_rows(changes((before.workloads[w.spec.id], w) for w in workloads.values())),
        models=[model_row(model) for model in models.values() if model is not None],
        reservations=[reservation_row(reservation) for reservation in reservations.values()],
        removed_models=[model_id for model_id, model in models.items() if model is None],
        accounts=[account_row(state.books.accounts[account_id]) for account_id in accounts],
        postings=[row for entry in entries for row in posting_rows(entry)],
        entries=[entry_row(entry) for entry in entries if entry.request_id],
        keys=[key_row(valid[key_id]) for key_id in keys if key_id in valid],
        removed_keys=[key_id for key_id in keys if key_id not in valid],
        quotas=[
            quota_row(AccountQuota(account=account, quota=quota))
            for account, quota in quotas.items()
            if quota is not None
        ],
        removed_quotas=[account for account, quota in quotas.items() if quota is None],
    )
