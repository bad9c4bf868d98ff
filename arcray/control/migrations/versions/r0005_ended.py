"""What has ended found by indexes of its own: reservations, and keys that were revoked."""

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
    """Replaces the index of all reservations, which did not tell those that have ended; adds one of revoked keys."""
    ended = sa.text("ended_at IS NOT NULL")
    op.create_index(
        "ix_reservations_ended",
        "reservations",
        ["created_at", "id", "ended_at"],
        sqlite_where=ended,
        postgresql_where=ended,
    )
    op.drop_index("ix_reservations_created", "reservations")
    revoked = sa.text("kind = 'KeyRevoked'")
    op.create_index("ix_events_revoked", "events", ["seq"], sqlite_where=revoked, postgresql_where=revoked)


def downgrade() -> None:
    """Refuses."""
    no_way_back(revision)
