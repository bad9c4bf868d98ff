"""What is read from the rows, because memory has let go of it or has never had it.

Memory holds everything alive and the newest of what has finished; rows hold everything but the requests that someone
waits for at this moment. A list is the rows, with those merged in.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from arcray.config import RetentionSettings
from arcray.control.journal import Journal
from arcray.core.answers import check_page, follows, matches, workload_view
from arcray.core.answers import workload_page as page_of
from arcray.core.cluster import Cluster
from arcray.core.commands import (
    Command,
    DiscardWorkload,
    IssueCredits,
    ReleaseReservation,
    Reserve,
    StopWorkload,
    SubmitWorkload,
    TransferCredits,
)
from arcray.core.errors import NotFoundError
from arcray.core.explanation import WorkloadExplanation
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.ledger import Entry
from arcray.core.outlook import explain
from arcray.core.queries import ExplainWorkload, GetReservation, GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.repeats import entry_key
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.workload import PayloadKind, Workload, WorkloadView

__all__ = [
    "Found",
    "is_all_in_memory",
    "look_up",
    "may_be_of_old",
    "of_ended",
    "workload_page",
]


def may_be_of_old(command: Command, state: ClusterState) -> bool:
    """Returns whether a command may be about something that memory has let go of.

    It may submit a workload again, try it again, stop it or put it away; ask for a reservation again or give it back;
    move credits again.

    The sender makes id and creation time once, so a submission created after everything that was let go of has an id
    that was not seen before. An idempotency key comes with a new id each time, so it is always looked up.
    """
    if isinstance(command, StopWorkload | DiscardWorkload):
        return state.forgotten_until is not None and command.workload_id not in state.workloads
    if type(command) is not SubmitWorkload:
        return _may_repeat(command, state)
    if state.forgotten_until is None or command.spec.id in state.workloads:
        return False
    spec = command.spec
    if spec.replay_of is not None and spec.replay_of not in state.workloads:
        return True
    if spec.request_id:
        return (spec.origin.account, spec.request_id) not in state.requests
    return spec.created_at <= state.forgotten_until


def _may_repeat(command: Command, state: ClusterState) -> bool:
    match command:
        case IssueCredits() | TransferCredits():
            return state.books.forgetful and entry_key(command) not in state.books.requests
        case Reserve() | ReleaseReservation():
            return state.reservations.forgetful and state.reservations.get(command.reservation_id) is None
        case _:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What rows have of what commands are about.

    Args:
        about: the commands.
        known: those workloads that memory had when the reading began, and may have changed since.
    """

    about: Sequence[Command]
    workloads: Sequence[Workload]
    entries: Sequence[Entry]
    reservations: Sequence[Reservation]
    known: AbstractSet[WorkloadId]

    def is_outdated(self, cluster: Cluster) -> bool:
        """Returns whether memory has let go of something since, of which its row may have been read before."""
        return any(
            workload.spec.id not in cluster.state.workloads
            and (workload.spec.id in self.known or not workload.phase.terminal)
            for workload in self.workloads
        )

    def recall(self, cluster: Cluster) -> None:
        """Takes it back into memory: what has ended there, for what lives was never let go of."""
        for workload in self.workloads:
            if workload.phase.terminal:
                cluster.recall(workload)
        for entry in self.entries:
            cluster.recall_entry(entry)
        for reservation in self.reservations:
            cluster.recall_reservation(reservation)


async def look_up(journal: Journal, commands: Sequence[Command], state: ClusterState) -> Found:
    """Returns what commands, of which ``may_be_of_old`` is true, are about.

    Raises:
        UnavailableError: the rows cannot be read.
    """
    ids: set[WorkloadId] = set()
    keys: dict[AccountId, set[str]] = {}
    keyed: set[WorkloadId] = set()
    entries: list[Entry | None] = []
    reservations: list[Reservation | None] = []
    for command in commands:
        match command:
            case SubmitWorkload(spec=spec):
                ids.add(spec.id)
                ids |= set() if spec.replay_of is None else {spec.replay_of}
                if spec.request_id:
                    keys.setdefault(spec.origin.account, set()).add(spec.request_id)
                    first = state.requests.get((spec.origin.account, spec.request_id))
                    keyed |= set() if first is None else {first}
            case StopWorkload() | DiscardWorkload():
                ids.add(command.workload_id)
            case IssueCredits() | TransferCredits():
                entries.append(await journal.entry(*entry_key(command)))
            case Reserve() | ReleaseReservation():
                reservations.append(await journal.reservation(command.reservation_id))
            case _:
                raise AssertionError(f"{type(command).__name__} is about nothing old")
    known = (ids | keyed) & state.workloads.keys()
    return Found(
        about=commands,
        known=known,
        workloads=await journal.earlier(ids, keys) if ids else [],
        entries=[entry for entry in entries if entry is not None],
        reservations=[reservation for reservation in reservations if reservation is not None],
    )


async def of_ended(
    journal: Journal,
    query: ExplainWorkload | GetWorkload | GetReservation,
    kept: RetentionSettings,
    state: ClusterState,
    now: datetime,
) -> WorkloadExplanation | WorkloadView | Reservation:
    """Answers from the rows about what has ended.

    Raises:
        NotFoundError: no such thing, or no more, or not of that account.
        UnavailableError: the rows cannot be read.
    """
    match query:
        case GetWorkload():
            return workload_view(await _finished(journal, query, kept))
        case ExplainWorkload():  # it waits for nothing
            return explain(state, await _finished(journal, query, kept), now, query.account)
        case GetReservation():
            return await _reservation(journal, query)
        case _:
            assert_never(query)


async def _finished(journal: Journal, query: GetWorkload | ExplainWorkload, kept: RetentionSettings) -> Workload:
    workload = await journal.workload(query.workload_id)
    if workload is None or query.account not in (None, workload.spec.origin.account):
        raise NotFoundError(f"no workload {query.workload_id}{_deletion(kept)}", field="id")
    return workload


async def _reservation(journal: Journal, query: GetReservation) -> Reservation:
    reservation = await journal.reservation(query.reservation_id)
    if reservation is None or query.account not in (None, reservation.account):
        raise NotFoundError(f"no reservation {query.reservation_id}", field="id")
    return reservation


def _deletion(kept: RetentionSettings) -> str:
    """Returns what else may be the reason that there is none."""
    terms = {"ended work": kept.workloads_s, "inference requests": kept.inference_s}
    told = [f"{what} after {seconds / 86_400:g} days" for what, seconds in terms.items() if seconds is not None]
    return f"; {' and '.join(told)} or more is deleted" if told else ""


async def workload_page(journal: Journal, state: ClusterState, query: ListWorkloads) -> WorkloadPage:
    """Answers from the rows and from the live requests that are not in them yet.

    Those are as they were before the rows are read; one that ends meanwhile is shown from its row.

    Raises:
        InvalidArgumentError: the page is too large or too far away.
        UnavailableError: the rows cannot be read.
    """
    check_page(query)
    awaited = [view for view in _awaited_by_someone(state, query) if follows(query, view.spec)]
    # Wherever the awaited fall among them, the rows of this page lie within this window.
    first = max(0, query.offset - len(awaited))
    rows, total = await journal.workloads(query, limit=query.offset + query.limit + 1 - first, offset=first)
    merged = list(map(workload_view, rows))
    in_rows = {view.spec.id for view in merged}
    missing = [view for view in awaited if view.spec.id not in in_rows]
    merged += missing
    merged.sort(key=lambda view: (view.spec.created_at, view.spec.id), reverse=True)
    return page_of(query, merged[query.offset - first :], None if total is None else total + len(missing))


def is_all_in_memory(state: ClusterState, query: ListWorkloads) -> bool:
    """Returns whether memory has everything that a list may show, as it has of all that lives."""
    only_live = bool(query.phases) and not any(phase.terminal for phase in query.phases)
    return only_live or state.forgotten_until is None


def _awaited_by_someone(state: ClusterState, query: ListWorkloads) -> list[WorkloadView]:
    """Returns the live workloads that a list shows and that no row has."""
    if PayloadKind.INFERENCE not in query.kinds:
        return []
    return [
        workload_view(workload)
        for workload in state.workloads.values()
        if workload.spec.waiting and not workload.phase.terminal and matches(query, workload)
    ]
