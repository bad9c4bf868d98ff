"""The audit log, read from the rows of events: oldest first, a page at the cost of what it shows.

A page that continues another begins after its last event, found by an index of what was asked for. Events of one moment
are told in the order of their numbers.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from arcray.control.rows import column, decode_event, microseconds
from arcray.control.schema import EVENTS
from arcray.core.audit_log import AuditCursor, AuditPage, ReadAudit

__all__ = ["AUDITED", "audit_rows", "read_audit"]

AUDITED: Final = sa.text("account IS NOT NULL")  # spelled as in the indexes, or they would not be used
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def read_audit(connection: sa.Connection, query: ReadAudit) -> AuditPage:
    """Returns a page of the log."""
    rows = connection.execute(audit_rows(query)).all()
    shown = rows[: query.limit]
    following = None
    if len(rows) > query.limit:
        following = AuditCursor(at=_EPOCH + timedelta(microseconds=shown[-1].at), seq=shown[-1].seq)
    return AuditPage(events=tuple(decode_event(row.kind, row.body) for row in shown), next=following)


def audit_rows(query: ReadAudit) -> sa.Select[Any]:
    """Returns what reads the rows of a page, and one more."""
    shown: list[Any] = [AUDITED]
    asked = [
        (place, column(value))
        for place, value in ((EVENTS.c.account, query.account), (EVENTS.c.node_id, query.node_id))
        if value is not None
    ]
    if query.workload_id is not None:
        # A workload has few events, an account or a node perhaps millions. There is no index for an expression.
        shown += [place.concat("") == value for place, value in asked]
        asked = [(EVENTS.c.subject, column(query.workload_id))]
    # Equalities would let a database that goes by statistics take the index of time alone, and look through millions of
    # events for the few of an account. This order is that of one index, from its first row to its last.
    places, values = [place for place, _ in asked], [sa.literal(value) for _, value in asked]
    ordered = (*places, EVENTS.c.at, EVENTS.c.seq)
    lowest = (*values, *map(sa.literal, _first_of(query)))
    if lowest:
        shown.append(sa.tuple_(*ordered[: len(lowest)]) >= sa.tuple_(*lowest))
    if values:
        shown.append(sa.tuple_(*places) <= sa.tuple_(*values))
    found = sa.select(EVENTS.c.seq, EVENTS.c.at, EVENTS.c.kind, EVENTS.c.body).where(*shown)
    return found.order_by(*ordered).limit(query.limit + 1)


def _first_of(query: ReadAudit) -> tuple[int, ...]:
    """Returns the time, and number if there is one, of the first event that may be shown; () where any may."""
    since = () if query.since is None else (microseconds(query.since),)
    after = () if query.after is None else (microseconds(query.after.at), query.after.seq + 1)
    return max(since, after)
