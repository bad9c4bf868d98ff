"""The tables: current rows of everything, the events that led to them, and a little bookkeeping.

A row is the columns that queries filter or order by, and ``body``: the whole value as JSON. Columns are derived from
the body and never read back into values. Times are integers in microseconds since 1970 (exact, ordered and the same in
every database). ``meta`` holds the generation that fences off an earlier scheduler.

Postings are appended and never changed; an account's statement is read from them. Entries that came with an idempotency
key are kept by it.

Indexes are few on purpose: every inference request inserts one workload and one event.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, text

__all__ = [
    "ACCOUNTS",
    "DISCARDED_BLOBS",
    "DISCARDS",
    "ENTRIES",
    "EVENTS",
    "GENERATION",
    "KEYS",
    "META",
    "METADATA",
    "MODELS",
    "NODES",
    "POSTINGS",
    "QUOTAS",
    "RESERVATIONS",
    "TALLIES",
    "WORKLOADS",
]

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

RESERVATIONS: Final = Table(
    "reservations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=True),
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
    Column("account", Text, nullable=True),
    Column("node_id", Text, nullable=True),
)
"""``account`` is of audited events alone, and ``node_id`` of those among them that happened on a node."""

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

POSTINGS: Final = Table(
    "postings",
    METADATA,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("account", Text, nullable=False),
    Column("book", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("entry", Text, nullable=False),
    Column("body", Text, nullable=False),
)

ENTRIES: Final = Table(
    "entries",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("asked_by", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

TALLIES: Final = Table(
    "tallies",
    METADATA,
    Column("account", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("workloads", BigInteger, nullable=False),
)
"""How many workloads there are of each account, kind and phase."""

DISCARDS: Final = Table(
    "discards",
    METADATA,
    Column("workload_id", Text, primary_key=True),
    Column("discarded_at", BigInteger, nullable=False),
)
"""Workloads whose rows have been deleted and whose blobs have not yet."""

DISCARDED_BLOBS: Final = Table(
    "discarded_blobs",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("discarded_at", BigInteger, nullable=False),
)
"""And blobs of those whose keys do not follow from the workload's id."""

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
Index(
    "ix_workloads_account", WORKLOADS.c.account, WORKLOADS.c.created_at, WORKLOADS.c.id, sqlite_where=_OTHERS,
    postgresql_where=_OTHERS,
)  # fmt: skip
# Recovery reads the live ones only, however many have finished.
Index("ix_workloads_live", WORKLOADS.c.id, sqlite_where=_LIVE, postgresql_where=_LIVE)
_HELD: Final = text("ended_at IS NULL")
Index("ix_reservations_active", RESERVATIONS.c.id, sqlite_where=_HELD, postgresql_where=_HELD)
# What has ended is counted and walked, oldest first, by the index alone; recovery reads the newest of it.
_ENDED: Final = text("ended_at IS NOT NULL")
Index(
    "ix_reservations_ended", RESERVATIONS.c.created_at, RESERVATIONS.c.id, RESERVATIONS.c.ended_at, sqlite_where=_ENDED,
    postgresql_where=_ENDED,
)  # fmt: skip
# Idempotency keys older than what memory remembers.
Index("ix_workloads_request", WORKLOADS.c.account, WORKLOADS.c.request_id, sqlite_where=_KEYED, postgresql_where=_KEYED)
# Keys that were revoked, of which nothing but the event is left.
_REVOKED: Final = text("kind = 'KeyRevoked'")
Index("ix_events_revoked", EVENTS.c.seq, sqlite_where=_REVOKED, postgresql_where=_REVOKED)
# The audit log by all that it is asked by, so that a page costs what it shows. Inference requests are not in it.
_AUDITED: Final = text("account IS NOT NULL")
Index("ix_events_audit", EVENTS.c.at, EVENTS.c.seq, sqlite_where=_AUDITED, postgresql_where=_AUDITED)
Index(
    "ix_events_audit_account", EVENTS.c.account, EVENTS.c.at, EVENTS.c.seq, sqlite_where=_AUDITED,
    postgresql_where=_AUDITED,
)  # fmt: skip
Index(
    "ix_events_audit_subject", EVENTS.c.subject, EVENTS.c.at, EVENTS.c.seq, sqlite_where=_AUDITED,
    postgresql_where=_AUDITED,
)  # fmt: skip
Index(
    "ix_events_audit_node", EVENTS.c.node_id, EVENTS.c.at, EVENTS.c.seq, sqlite_where=_AUDITED,
    postgresql_where=_AUDITED,
)  # fmt: skip
Index(
    "ix_events_audit_account_node", EVENTS.c.account, EVENTS.c.node_id, EVENTS.c.at, EVENTS.c.seq,
    sqlite_where=_AUDITED, postgresql_where=_AUDITED,
)  # fmt: skip
# Statements, newest first.
Index("ix_postings_account", POSTINGS.c.account, POSTINGS.c.seq)
# Idempotency keys older than what memory remembers, and the newest of them at recovery.
Index("ix_entries_request", ENTRIES.c.asked_by, ENTRIES.c.request_id)
Index("ix_entries_at", ENTRIES.c.at)
# Dead letters are few among many that ended well.
Index("ix_workloads_dead", WORKLOADS.c.created_at, WORKLOADS.c.id, sqlite_where=_DEAD, postgresql_where=_DEAD)
