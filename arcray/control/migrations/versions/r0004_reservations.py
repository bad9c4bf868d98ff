"""Reservations: slices of nodes that are held without a workload."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision: Final = "0004"
down_revision: Final = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    active = sa.text("ended_at IS NULL")
    op.create_index("ix_reservations_active", "reservations", ["id"], sqlite_where=active, postgresql_where=active)
    op.create_index("ix_reservations_created", "reservations", ["created_at", "id"])


def downgrade() -> None:
    """Drops it."""
    op.drop_table("reservations")
