"""Ended reservations counted and found by an index of their own."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

from arcray.control.migrations import no_way_back

revision: Final = "0005"
down_revision: Final = "0004"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Replaces the index of all reservations, which did not tell those that have ended."""
    ended = sa.text("ended_at IS NOT NULL")
    op.create_index(
        "ix_reservations_ended",
        "reservations",
        ["created_at", "id", "ended_at"],
        sqlite_where=ended,
        postgresql_where=ended,
    )
    op.drop_index("ix_reservations_created", "reservations")


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
