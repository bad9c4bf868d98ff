"""What is read from the rows, because memory has let go of it or has never had it.

Memory holds everything alive and the newest of what has finished; rows hold everything but the requests that someone
waits for at this moment. A list is the rows, with those merged in.
"""

from __future__ import annotations

from collections.abc import Sequence

from arcray.control.journal import Journal
from arcray.core.answers import matches, workload_view
from arcray.core.commands import Command, DiscardWorkload, SubmitWorkload
from arcray.core.errors import NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.queries import GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.state import ClusterState
from arcray.core.workload import Workload, WorkloadSpec, WorkloadView

__all__ = ["awaited_by_someone", "earlier_submission", "finished_workload", "may_repeat", "needs_row", "workload_page"]


def needs_row(command: Command, state: ClusterState) -> WorkloadId | None:
    """Returns the ended workload that a command is about and that memory has let go of."""
    if state.forgotten_until is None:
        return None
    wanted: WorkloadId | None = None
    if type(command) is DiscardWorkload:
        wanted = command.workload_id
    elif type(command) is SubmitWorkload:
        wanted = command.spec.replay_of
    return None if wanted in state.workloads else wanted


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


async def finished_workload(journal: Journal, query: GetWorkload) -> WorkloadView:
    """Answers from the rows.

    Raises:
        NotFoundError: no such workload, or not of that account.
        UnavailableError: the rows cannot be read.
    """
    workload = await journal.workload(query.workload_id)
    if workload is None or query.account not in (None, workload.spec.origin.account):
        raise NotFoundError(f"no workload {query.workload_id}", field="id")
    return workload_view(workload)


async def workload_page(journal: Journal, query: ListWorkloads, awaited: Sequence[WorkloadView]) -> WorkloadPage:
    """Answers from the rows and from the live workloads that are not in them yet.

    Args:
        awaited: those, as they were before the rows are read; one that ends meanwhile is shown from its row.
    """
    # Wherever the awaited fall among them, the rows of this page lie within this window.
    first = max(0, query.offset - len(awaited))
    rows, total = await journal.workloads(query, limit=query.offset + query.limit - first, offset=first)
    merged = list(map(workload_view, rows))
    in_rows = {view.spec.id for view in merged}
    missing = [view for view in awaited if view.spec.id not in in_rows]
    merged += missing
    merged.sort(key=lambda view: (view.spec.created_at, view.spec.id), reverse=True)
    start = query.offset - first
    return WorkloadPage(workloads=tuple(merged[start : start + query.limit]), total=total + len(missing))


def awaited_by_someone(state: ClusterState, query: ListWorkloads) -> list[WorkloadView]:
    """Returns the live workloads that a list shows and that no row has."""
    return [
        workload_view(workload)
        for workload in state.workloads.values()
        if workload.spec.waiting and not workload.phase.terminal and matches(query, workload)
    ]
