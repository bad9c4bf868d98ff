"""The audit log: whose work an event is of and on which node it happened, as columns with indexes.

What was written before has neither, and is not in the log.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0007"
down_revision: Final = "0006"
branch_labels: Final = None
depends_on: Final = None

_INDEXES: Final = {
    "ix_events_audit": [],
    "ix_events_audit_account": ["account"],
    "ix_events_audit_subject": ["subject"],
    "ix_events_audit_node": ["node_id"],
}


def upgrade() -> None:
    """Adds the columns and an index for each way of asking."""
    for name in ("account", "node_id"):
        op.add_column("events", sa.Column(name, sa.Text, nullable=True))
    audited = sa.text("account IS NOT NULL")
    for name, first in _INDEXES.items():
        op.create_index(name, "events", [*first, "at", "seq"], sqlite_where=audited, postgresql_where=audited)


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
