"""Before: how things stood before events that are not on disk yet, so that memory can be taken back to what is.

A shell that cannot write, nor read what it has written, still knows by this what it may show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from arcray.core import events as ev
from arcray.core.ids import AccountId, KeyId, ModelId, NodeId, ReservationId, WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, Entry
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.quota import Quota
from arcray.core.reservation import Reservation
from arcray.core.workload import Workload

if TYPE_CHECKING:
    from arcray.core.state import ClusterState

__all__ = ["Before"]


class Before:
    """Copies of what durable events changed, each taken before the first of them.

    Attributes:
        nodes, workloads, models, reservations, accounts, keys, quotas: by id; None where there was none, or none that
            is stored.
        requests: idempotency keys of entries that were not posted yet.
    """

    __slots__ = ("accounts", "keys", "models", "nodes", "quotas", "requests", "reservations", "workloads")

    def __init__(self) -> None:
        self.accounts: dict[AccountId, Account | None] = {}
        self.keys: dict[KeyId, ApiKey | None] = {}
        self.quotas: dict[AccountId, Quota | None] = {}
        self.reservations: dict[ReservationId, Reservation | None] = {}
        self.requests: set[tuple[AccountId, str]] = set()
        self.nodes: dict[NodeId, Node | None] = {}
        self.workloads: dict[WorkloadId, Workload | None] = {}
        self.models: dict[ModelId, Model | None] = {}

    def note(self, event: ev.Event, state: ClusterState) -> None:  # noqa: C901, PLR0912  one arm per fact
        """Takes a copy of what a durable event is about to change."""
        match event:
            case ev.WorkloadSubmitted() | ev.WorkloadPlaced() | ev.WorkloadPhaseChanged() | ev.WorkloadFinished():
                self._note_workload(event.workload_id, state)  # first: nearly all are these
            case ev.NodeAttached():
                self._note_node(event.registration.id, state)
            case (
                ev.NodeHealthChanged()
                | ev.NodeDetached()
                | ev.NodeSchedulingChanged()
                | ev.NodeDrainChanged()
                | ev.NodeRelabelled()
            ):
                self._note_node(event.node_id, state)
            case ev.QuotaChanged():
                self.quotas.setdefault(event.account, state.quotas.get(event.account))
            case ev.ModelRegistered():
                self.models.setdefault(event.model.id, state.models.get(event.model.id))
            case ev.ModelRemoved():
                self.models.setdefault(event.model_id, state.models.get(event.model_id))
            case ev.ReservationGranted() | ev.ReservationTaken() | ev.ReservationEnded():
                self.reservations.setdefault(event.reservation_id, state.reservations.get(event.reservation_id))
            case ev.AccountOpened() | ev.LoginSet() | ev.SpendingLimitSet():
                self._note_account(event.account_id, state)
            case ev.CreditsMoved():
                self._note_entry(event.entry, state)
            case ev.WorkloadCharged():
                self._note_workload(event.workload_id, state)
                self._note_account(state.workloads[event.workload_id].spec.origin.account, state)
                if event.entry is not None:
                    self._note_entry(event.entry, state)
            case ev.KeyIssued():
                self.keys.setdefault(event.key.id, None)
            case ev.KeyRevoked():
                self.keys.setdefault(event.key_id, state.keys.keys[event.key_id])
            case ev.TelemetryUpdated() | ev.BatteryRanLow() | ev.ModelsChanged() | ev.LogAppended() | ev.KeysUsed():
                raise AssertionError(f"{type(event).__name__} is volatile")
            case _:
                self._note_workload(event.workload_id, state)

    def add(self, later: Before) -> None:
        """Takes in what happened after: of what is in both, the earlier copy stays."""
        self.nodes = later.nodes | self.nodes
        self.workloads = later.workloads | self.workloads
        self.models = later.models | self.models
        self.reservations = later.reservations | self.reservations
        self.accounts = later.accounts | self.accounts
        self.keys = later.keys | self.keys
        self.quotas = later.quotas | self.quotas
        self.requests |= later.requests

    def _note_workload(self, workload_id: WorkloadId, state: ClusterState) -> None:
        if workload_id not in self.workloads:
            known = state.workloads.get(workload_id)
            # A request that someone waits for is stored with its end only.
            self.workloads[workload_id] = None if known is None or known.spec.waiting else replace(known)

    def _note_account(self, account_id: AccountId, state: ClusterState) -> None:
        if account_id not in self.accounts:
            known = state.books.accounts.get(account_id)
            self.accounts[account_id] = None if known is None else replace(known)

    def _note_entry(self, entry: Entry, state: ClusterState) -> None:
        for posting in entry.postings:
            self._note_account(posting.account, state)
        if entry.request_id:
            self.requests.add((entry.asked_by, entry.request_id))

    def _note_node(self, node_id: NodeId, state: ClusterState) -> None:
        if node_id not in self.nodes:
            known = state.nodes.get(node_id)
            self.nodes[node_id] = None if known is None else replace(known)
