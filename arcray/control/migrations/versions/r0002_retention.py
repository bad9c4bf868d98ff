"""What retention and paging need: totals that nobody has to count, and whose blobs are still to be deleted."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0002"
down_revision: Final = "0001"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Creates the tables, counts once what there is, and has the lists of one account walk an index."""
    op.create_table(
        "tallies",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("phase", sa.Text, primary_key=True),
        sa.Column("workloads", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO tallies (account, kind, phase, workloads) "
        "SELECT account, kind, phase, count(*) FROM workloads GROUP BY account, kind, phase"
    )
    op.create_table(
        "discards",
        sa.Column("workload_id", sa.Text, primary_key=True),
        sa.Column("discarded_at", sa.BigInteger, nullable=False),
    )
    others = sa.text("kind <> 'inference'")
    op.create_index(
        "ix_workloads_account", "workloads", ["account", "created_at", "id"], sqlite_where=others,
        postgresql_where=others,
    )  # fmt: skip


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
