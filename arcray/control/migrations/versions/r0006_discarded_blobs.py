"""Blobs that are to go one by one: those whose keys do not follow from the id of the workload that had them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0006"
down_revision: Final = "0005"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "discarded_blobs",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("discarded_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
