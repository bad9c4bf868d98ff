"""The tables: current rows of nodes, workloads, models and quotas, and the events that led to them.

A row is the columns that queries filter or order by, and ``body``: the whole value as JSON. Columns are derived from
the body and never read back into values. Times are integers in microseconds since 1970 (exact, ordered and the same in
every database). ``meta`` holds the generation that fences off an earlier scheduler.

Indexes are few on purpose: every inference request inserts one workload and one event.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, text

__all__ = ["EVENTS", "GENERATION", "META", "METADATA", "MODELS", "NODES", "QUOTAS", "WORKLOADS"]

METADATA: Final = MetaData()

META: Final = Table(
    "meta",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

GENERATION: Final = META.c.name == "generation"
"""The row that counts the schedulers which opened this database."""

NODES: Final = Table(
    "nodes",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("facade", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("health", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("joined_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

WORKLOADS: Final = Table(
    "workloads",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("facade", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("node_id", Text, nullable=True),
    Column("request_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=True),
    Column("body", Text, nullable=False),
    Column("dead", Integer, nullable=False, server_default="0"),
)

MODELS: Final = Table(
    "models",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("format", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

QUOTAS: Final = Table(
    "quotas",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("body", Text, nullable=False),
)
"""By account."""

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
)

_LIVE: Final = text("finished_at IS NULL")
_KEYED: Final = text("request_id <> ''")
_INFERENCE: Final = text("kind = 'inference'")
_DEAD: Final = text("dead = 1")
_OTHERS: Final = text("kind <> 'inference'")

# Lists, newest first. Requests outnumber everything else by far, so each has an index without the other.
Index("ix_workloads_others", WORKLOADS.c.created_at, WORKLOADS.c.id, sqlite_where=_OTHERS, postgresql_where=_OTHERS)
Index(
    "ix_workloads_inference", WORKLOADS.c.created_at, WORKLOADS.c.id, sqlite_where=_INFERENCE,
    postgresql_where=_INFERENCE,
)  # fmt: skip
# Recovery reads the live ones only, however many have finished.
Index("ix_workloads_live", WORKLOADS.c.id, sqlite_where=_LIVE, postgresql_where=_LIVE)
# Idempotency keys older than what memory remembers.
Index("ix_workloads_request", WORKLOADS.c.account, WORKLOADS.c.request_id, sqlite_where=_KEYED, postgresql_where=_KEYED)
# Dead letters are few among many that ended well.
Index("ix_workloads_dead", WORKLOADS.c.created_at, WORKLOADS.c.id, sqlite_where=_DEAD, postgresql_where=_DEAD)
