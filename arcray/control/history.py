"""What is read from the rows, because memory has let go of it or has never had it.

Memory holds everything alive and the newest of what has finished; rows hold everything but the requests that someone
waits for at this moment. A list is the rows, with those merged in.
"""

from __future__ import annotations

from arcray.config import RetentionSettings
from arcray.control.journal import Journal
from arcray.core.answers import check_page, follows, matches, workload_view
from arcray.core.answers import workload_page as page_of
from arcray.core.commands import Command, SubmitWorkload
from arcray.core.errors import NotFoundError
from arcray.core.queries import GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.state import ClusterState
from arcray.core.workload import PayloadKind, Workload, WorkloadSpec, WorkloadView

__all__ = [
    "earlier_submission",
    "finished_workload",
    "is_all_in_memory",
    "may_repeat",
    "workload_page",
]


def may_repeat(command: Command, state: ClusterState) -> bool:
    """Returns whether a command may repeat a submission that memory has let go of.

    The sender makes id and creation time once, so a submission created after everything that was let go of has an id
    that was not seen before. An idempotency key comes with a new id each time, so it is always looked up.
    """
    if type(command) is not SubmitWorkload or state.forgotten_until is None:
        return False
    spec = command.spec
    if spec.id in state.workloads:
        return False
    if spec.request_id:
        return (spec.origin.account, spec.request_id) not in state.requests
    return spec.created_at <= state.forgotten_until


async def earlier_submission(journal: Journal, spec: WorkloadSpec) -> Workload | None:
    """Returns the row of the workload that this submission repeats.

    Raises:
        UnavailableError: the rows cannot be read.
    """
    earlier = await journal.workload(spec.id)
    if earlier is None and spec.request_id:
        earlier = await journal.request(spec.origin.account, spec.request_id)
    return earlier


async def finished_workload(journal: Journal, query: GetWorkload, kept: RetentionSettings) -> WorkloadView:
    """Answers from the rows.

    Raises:
        NotFoundError: no such workload, or no more, or not of that account.
        UnavailableError: the rows cannot be read.
    """
    workload = await journal.workload(query.workload_id)
    if workload is None or query.account not in (None, workload.spec.origin.account):
        raise NotFoundError(f"no workload {query.workload_id}{_deletion(kept)}", field="id")
    return workload_view(workload)


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
