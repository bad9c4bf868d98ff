"""Alembic migrations of the journal, run in process when it opens."""
