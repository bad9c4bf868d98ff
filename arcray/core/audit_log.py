"""The audit log as it is asked for and answered: what happened to work, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from arcray.core.events import Event
from arcray.core.ids import AccountId, NodeId, WorkloadId

__all__ = ["AuditCursor", "AuditPage", "ReadAudit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCursor:
    """Where the audit log goes on: after the event that happened then and has this number."""

    at: datetime
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAudit:
    """Answers ``AuditPage``, oldest first: submissions, placements, starts and ends of all work but inference.

    Args:
        account: whose work; None is everybody's.
        workload_id: only of this workload.
        node_id: only what happened on this node.
        since: only what happened then or later.
        after: continues another page, at the same cost however far it is from the first.
    """

    account: AccountId | None = None
    workload_id: WorkloadId | None = None
    node_id: NodeId | None = None
    since: datetime | None = None
    after: AuditCursor | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """A page of the audit log.

    Args:
        events: oldest first.
        next: where the next page begins; None at the end.
    """

    events: tuple[Event, ...]
    next: AuditCursor | None
