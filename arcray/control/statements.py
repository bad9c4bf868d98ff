"""The statements of the hot path, compiled once for one database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from arcray.control.schema import (
    ACCOUNTS,
    ENTRIES,
    EVENTS,
    GENERATION,
    KEYS,
    META,
    MODELS,
    NODES,
    POSTINGS,
    QUOTAS,
    RESERVATIONS,
    TALLIES,
    WORKLOADS,
)

__all__ = ["Statements"]


class _Write:
    """One statement, compiled once.

    SQLAlchemy's own execution costs 80 us a statement and 4 us a row here, more than SQLite needs to run it
    (measured); the text is still its compiler's, so both databases are served.
    """

    def __init__(self, statement: sa.Insert, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order = itemgetter(*compiled.positiontup) if compiled.positiontup else None

    def many(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs it for every row; for none it does nothing."""
        if rows:
            order = self._order
            connection.exec_driver_sql(self._text, list(map(order, rows)) if order else list(rows))


class Statements:
    """The statements of the hot path, for one database."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self.insert_events = _Write(_append(EVENTS), dialect)
        self.insert_postings = _Write(_append(POSTINGS), dialect)
        self.upsert_accounts = _Write(_upsert(ACCOUNTS, dialect), dialect)
        self.upsert_entries = _Write(_upsert(ENTRIES, dialect), dialect)
        self.upsert_keys = _Write(_upsert(KEYS, dialect), dialect)
        self.upsert_nodes = _Write(_upsert(NODES, dialect), dialect)
        self.upsert_workloads = _Write(_upsert(WORKLOADS, dialect), dialect)
        self.upsert_models = _Write(_upsert(MODELS, dialect), dialect)
        self.upsert_quotas = _Write(_upsert(QUOTAS, dialect), dialect)
        self.upsert_reservations = _Write(_upsert(RESERVATIONS, dialect), dialect)
        self.add_tallies = _Write(_add(TALLIES, "workloads", dialect), dialect)
        # FOR UPDATE makes a takeover wait for this transaction (PostgreSQL); SQLite has one writer anyhow.
        newest = sa.select(META.c.value).where(GENERATION).with_for_update()
        self.generation = str(newest.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _append(table: sa.Table) -> sa.Insert:
    """Returns the insertion of rows that the database numbers."""
    written = [column.name for column in table.c if column is not table.c.seq]
    return sa.insert(table).inline().values({name: sa.bindparam(name) for name in written})


def _upsert(table: sa.Table, dialect: sa.Dialect) -> sa.Insert:
    insert = _insert(table, dialect)
    changed = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)


def _add(table: sa.Table, number: str, dialect: sa.Dialect) -> sa.Insert:
    insert = _insert(table, dialect)
    grown = {number: table.c[number] + insert.excluded[number]}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=grown)


def _insert(table: sa.Table, dialect: sa.Dialect) -> sqlite.Insert | postgresql.Insert:
    values: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in table.c}
    if dialect.name == "postgresql":
        return postgresql.insert(table).values(values)
    return sqlite.insert(table).values(values)
