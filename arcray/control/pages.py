"""Pages of workloads from their rows, newest first.

A page that continues another begins after its last row, found by an index: the millionth row costs what the first does.
An offset walks over what it skips, so it is for first pages. How many there are in all is read from the tallies, on
first pages only.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from arcray.control.rows import column, decode_row, microseconds
from arcray.control.schema import TALLIES, WORKLOADS
from arcray.core.queries import ListWorkloads
from arcray.core.workload import PayloadKind, Workload

__all__ = ["INFERENCE", "NEWEST_FIRST", "NOT_INFERENCE", "read_page"]

# Spelled as in the partial indexes, or they would not be used.
NOT_INFERENCE: Final = sa.text("kind <> 'inference'")
INFERENCE: Final = sa.text("kind = 'inference'")
_DEAD: Final = sa.text("dead = 1")
NEWEST_FIRST: Final = (WORKLOADS.c.created_at.desc(), WORKLOADS.c.id.desc())


def read_page(
    connection: sa.Connection, query: ListWorkloads, limit: int, offset: int
) -> tuple[list[Workload], int | None]:
    """Returns what the query's filters show, and the number of all; None where the page continues another."""
    shown = _filters(query, WORKLOADS)
    page = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(*shown).order_by(*NEWEST_FIRST).limit(limit)
    total = None
    if query.after is not None:
        after = sa.tuple_(sa.literal(microseconds(query.after.created_at)), sa.literal(column(query.after.id)))
        page = page.where(sa.tuple_(WORKLOADS.c.created_at, WORKLOADS.c.id) < after)
    else:
        page = page.offset(offset)
        total = _total(connection, query)
    rows = connection.execute(page).all()
    return [decode_row(Workload, row.id, row.body) for row in rows], total


def _total(connection: sa.Connection, query: ListWorkloads) -> int:
    if query.node_id is None and not query.dead and not query.facade:
        tallied = sa.select(sa.func.coalesce(sa.func.sum(TALLIES.c.workloads), 0)).where(*_filters(query, TALLIES))
        return int(connection.execute(tallied).scalar_one())
    # There is no tally of each node: an operator looks at one of them now and then, and their number has no bound. Dead
    # letters are few, and have an index. A protocol that shows its own work alone tells no total: it pages by cursor.
    counted = sa.select(sa.func.count()).select_from(WORKLOADS).where(*_filters(query, WORKLOADS))
    return int(connection.execute(counted).scalar_one())


def _filters(query: ListWorkloads, table: sa.Table) -> list[Any]:
    shown: list[Any] = []
    if PayloadKind.INFERENCE not in query.kinds:
        shown.append(NOT_INFERENCE)
    if len(query.kinds) == 1 and PayloadKind.INFERENCE in query.kinds:
        shown.append(INFERENCE)
    elif query.kinds:
        shown.append(table.c.kind.in_(sorted(query.kinds)))
    if query.phases:
        shown.append(table.c.phase.in_(sorted(query.phases)))
    if query.dead:
        shown.append(_DEAD)
    if query.account is not None:
        shown.append(table.c.account == column(query.account))
    if query.facade:
        shown.append(table.c.facade == column(query.facade))
    if query.node_id is not None:
        shown.append(table.c.node_id == column(query.node_id))
    return shown
