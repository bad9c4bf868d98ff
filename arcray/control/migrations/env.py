"""Alembic's entry point: runs the revisions on the connection that the journal hands over."""

from __future__ import annotations

from alembic import context

from arcray.control.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters tables by copying them
)
with context.begin_transaction():
    context.run_migrations()
