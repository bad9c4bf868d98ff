"""Quotas of accounts, and dead letters found without reading every row."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0004"
down_revision: Final = "0003"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Adds the table of quotas, and the column and index of dead letters."""
    op.create_table(
        "quotas",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.add_column("workloads", sa.Column("dead", sa.Integer, nullable=False, server_default="0"))
    # What failed before nobody could have dealt with. Its senders that waited are in the body only, and were told.
    op.execute("UPDATE workloads SET dead = 1 WHERE phase IN ('failed', 'rejected') AND kind <> 'inference'")
    where = sa.text("dead = 1")
    op.create_index("ix_workloads_dead", "workloads", ["created_at", "id"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
