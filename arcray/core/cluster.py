"""The cluster: a dispatch table over the rules, and nothing else.

``handle`` decides and applies; ``answer`` reads. Neither waits, writes or knows the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from arcray.core import commands as cmd
from arcray.core import restoring
from arcray.core.answers import answer
from arcray.core.departures import forget_nodes
from arcray.core.errors import ArcrayError
from arcray.core.handlers import (
    accounts,
    charging,
    cordons,
    dead_letters,
    drains,
    evictions,
    inference,
    keys,
    models,
    nodes,
    quotas,
    recovery,
    reservations,
    scheduling,
    settling,
    workloads,
)
from arcray.core.ids import KeyId, NodeId, ReservationId, WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, Entry
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.orders import NodeOrder
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import Answer, Query
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.turn import Outcome, Turn
from arcray.core.workload import Workload

__all__ = ["Cluster", "Ledger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What rows hold of the ledger.

    Args:
        entries: the newest ones with an idempotency key, oldest first.
        forgetful: whether there are older ones.
    """

    accounts: Sequence[Account] = ()
    entries: Sequence[Entry] = ()
    forgetful: bool = False


def _on_tick(turn: Turn, command: cmd.Tick) -> None:
    _ = command
    nodes.expire_leases(turn)
    inference.expire_inference(turn)
    evictions.stop_overtime(turn)
    drains.expire_drains(turn)
    settling.expire_gangs(turn)
    settling.expire_claims(turn)
    reservations.expire_reservations(turn)
    if turn.state.pending.release_due(turn.now):
        turn.state.needs_round = True
    if turn.state.books.charging:
        charging.follow(turn)  # first: what was given up just now is not due any more
        charging.collect(turn)


Handler = Callable[[Turn, Any], cmd.Reply]

_HANDLERS: Final[Mapping[type, Handler]] = {
    cmd.SubmitWorkload: workloads.on_submit_workload,
    cmd.StopWorkload: workloads.on_stop_workload,
    cmd.ReportPhase: workloads.on_report_phase,
    cmd.ReportEnd: workloads.on_report_end,
    cmd.ReportUndelivered: workloads.on_report_undelivered,
    cmd.ReportTelemetry: nodes.on_report_telemetry,
    cmd.ReportModels: nodes.on_report_models,
    cmd.AttachNode: nodes.on_attach_node,
    cmd.DetachNode: nodes.on_detach_node,
    cmd.SetNodeScheduling: cordons.on_set_node_scheduling,
    cmd.DrainNode: drains.on_drain_node,
    cmd.LabelNode: cordons.on_label_node,
    cmd.SetQuota: quotas.on_set_quota,
    cmd.DiscardWorkload: dead_letters.on_discard_workload,
    cmd.RegisterModel: models.on_register_model,
    cmd.RemoveModel: models.on_remove_model,
    cmd.OpenAccount: accounts.on_open_account,
    cmd.OpenLogin: accounts.on_open_login,
    cmd.SetSpendingLimit: accounts.on_set_spending_limit,
    cmd.IssueCredits: accounts.on_issue_credits,
    cmd.TransferCredits: accounts.on_transfer_credits,
    cmd.IssueKey: keys.on_issue_key,
    cmd.RevokeKey: keys.on_revoke_key,
    cmd.ReportKeyUse: keys.on_report_key_use,
    cmd.Reserve: reservations.on_reserve,
    cmd.ReleaseReservation: reservations.on_release_reservation,
    cmd.Schedule: scheduling.on_schedule,
    cmd.Tick: _on_tick,
}


class Cluster:
    """Decides for one cluster.

    Args:
        policy: limits and times.
        now: when this scheduler started; uptime counts from here.

    Attributes:
        handlers: the rule of every command; another table is another set of rules.
    """

    handlers: ClassVar[Mapping[type, Handler]] = _HANDLERS

    def __init__(self, policy: ClusterPolicy, now: datetime) -> None:
        self.policy = policy
        self.state = ClusterState(policy, now)
        self._now = now

    @classmethod
    def restore(
        cls,
        policy: ClusterPolicy,
        *,
        nodes: Sequence[Node],
        workloads: Sequence[Workload],
        models: Sequence[Model],
        now: datetime,
        reservations: Sequence[Reservation] = (),
        ledger: Ledger | None = None,
        keys: Sequence[ApiKey] = (),
        revoked: Sequence[KeyId] = (),
        quotas: Sequence[AccountQuota] = (),
    ) -> Cluster:
        """Returns a cluster that goes on from rows: live workloads, the newest finished, and all of everything else.

        Args:
            reservations: active ones, and the newest that ended.
            revoked: the newest keys that were revoked, earliest first.
            now: the time in UTC; a clock that shows less than what the rows tell of has gone back.
        """
        entries = () if ledger is None else ledger.entries
        now = max((now, *restoring.times(nodes, workloads, reservations, entries)))
        cluster = cls(policy, now)
        if ledger is not None:
            cluster.state.books.restore(ledger.accounts, ledger.entries, forgetful=ledger.forgetful)
        cluster.state.keys.restore(keys, revoked)
        restoring.restore(
            cluster.state,
            nodes=nodes,
            workloads=workloads,
            models=models,
            reservations=reservations,
            quotas=quotas,
            now=now,
        )
        return cluster

    def handle(self, command: cmd.Command, now: datetime) -> Outcome:
        """Decides on a command and applies what follows.

        Args:
            now: the time in UTC; one that goes back counts as the newest so far.

        Raises:
            ArcrayError: the command is refused; the state is as before.
        """
        self._now = max(now, self._now)
        turn = Turn(self.state, self.policy, self._now)
        try:
            reply = self.handlers[type(command)](turn, command)
        except ArcrayError:
            assert not turn.events, "a handler refuses before its first event"
            raise
        settling.settle(turn)
        if self.state.slots_freed:
            inference.dispatch_waiting(turn)
        if self.state.drains_to_check:
            drains.advance_drains(turn)
        if self.state.books.charging:  # else nothing can have a price, and costs no time either
            charging.follow(turn)
            while self.state.gangs.broken or self.state.claims.settled:  # by what could not be paid
                settling.settle(turn)
                charging.follow(turn)
            reply = workloads.as_it_stands(turn, reply)
        return Outcome(reply=reply, events=tuple(turn.events), orders=tuple(turn.orders), awaits=turn.awaits)

    def undelivered(self) -> tuple[NodeOrder, ...]:
        """Returns the orders of every live attempt that its node may not have got, after a restart of the shell.

        Orders are delivered at least once, so one that its node has seen does no harm.
        """
        return recovery.undelivered(self.state, self.policy)

    def recall(self, workload: Workload) -> None:
        """Takes a finished workload back into memory from its row, so that the rules see what repeats it."""
        restoring.recall(self.state, workload)

    def recall_entry(self, entry: Entry) -> None:
        """Takes an entry back into memory from its row, so that the rules see what repeats it."""
        self.state.books.remember(entry)

    def recall_reservation(self, reservation: Reservation) -> None:
        """Takes an ended reservation back into memory from its row, so that the rules see what repeats it."""
        self.state.reservations.recall(reservation)

    def retire(self, workload_ids: Iterable[WorkloadId], settled: Iterable[WorkloadId] = ()) -> None:
        """Lets go of finished workloads beyond the policy's limits; the shell names those that are in the rows now.

        Args:
            settled: dead letters whose rows say now that they are dealt with.
        """
        self.state.retire(workload_ids, settled)

    def retire_reservations(self, reservation_ids: Iterable[ReservationId]) -> None:
        """Lets go of ended reservations beyond the policy's limit; the shell names those that are in the rows now."""
        self.state.reservations.retire(reservation_ids, self.policy.keep_reservations)

    def discard(self, workload_ids: Iterable[WorkloadId]) -> None:
        """Lets go of ended workloads whose rows the shell is about to delete."""
        self.state.discard(workload_ids)

    def discard_reservations(self, reservation_ids: Iterable[ReservationId]) -> None:
        """Lets go of ended reservations whose rows the shell is about to delete; live work may yet name some."""
        self.state.reservations.discard(reservation_ids)

    def forget_nodes(self, node_ids: Iterable[NodeId]) -> Sequence[NodeId]:
        """Forgets nodes that have left, unless something alive refers to one; returns whose rows are to be deleted."""
        return forget_nodes(self.state, node_ids)

    def answer(self, query: Query, now: datetime) -> Answer:
        """Answers from memory.

        Raises:
            NotFoundError: no such thing in memory; a finished workload may still be in the rows.
        """
        return answer(self.state, query, max(now, self._now))

    def next_due(self) -> datetime | None:
        """Returns when ``Tick`` has something to do; None when only a command can change that."""
        state = self.state
        overtime = state.overtime[0][0] if state.overtime else None
        drained = drains.drains_due(state) if state.draining else None
        times = (
            state.leases.next_due(),
            state.waiting.next_due(),
            state.pending.next_due(),
            state.books.next_due(),
            state.gangs.next_due(),
            state.claims.next_due(),
            state.reservations.next_due(),
            state.next_late(),
            overtime,
            drained,
        )
        return min((time for time in times if time is not None), default=None)

    @property
    def now(self) -> datetime:
        """The newest time that it knows of: it was told that it is, or something in the rows happened then."""
        return self._now

    @property
    def needs_round(self) -> bool:
        """Whether ``Schedule`` has something to do."""
        return self.state.needs_round or self.state.pending.rounds.unfinished
