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
    account: sa.ColumnElement[Any] = EVENTS.c.account
    node_id: sa.ColumnElement[Any] = EVENTS.c.node_id
    if query.workload_id is not None:
        shown.append(EVENTS.c.subject == column(query.workload_id))
        # A workload has few events, an account or a node perhaps millions. SQLite takes one index for as good as the
        # other, and has none for an expression.
        account, node_id = account.concat(""), node_id.concat("")
    if query.account is not None:
        shown.append(account == column(query.account))
    if query.node_id is not None:
        shown.append(node_id == column(query.node_id))
    if query.since is not None:
        shown.append(EVENTS.c.at >= microseconds(query.since))
    if query.after is not None:
        after = sa.tuple_(sa.literal(microseconds(query.after.at)), sa.literal(query.after.seq))
        shown.append(sa.tuple_(EVENTS.c.at, EVENTS.c.seq) > after)
    found = sa.select(EVENTS.c.seq, EVENTS.c.at, EVENTS.c.kind, EVENTS.c.body).where(*shown)
    return found.order_by(EVENTS.c.at, EVENTS.c.seq).limit(query.limit + 1)
