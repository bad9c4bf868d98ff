"""What happened to an account's work on a node, by an index of both: either may have millions of events without it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0008"
down_revision: Final = "0007"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Creates the index."""
    audited = sa.text("account IS NOT NULL")
    op.create_index(
        "ix_events_audit_account_node",
        "events",
        ["account", "node_id", "at", "seq"],
        sqlite_where=audited,
        postgresql_where=audited,
    )


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
