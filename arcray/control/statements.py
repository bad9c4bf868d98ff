"""The statements of the hot path, compiled once for one database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from arcray.control.driver import Driver
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

__all__ = ["Lookup", "Statements"]

_TOGETHER: Final = (64, 32, 16, 8, 4, 2, 1)  # rows; 12 columns are 768 values, and SQLite took 999 before 3.32


class _Write:
    """One statement for any number of rows, compiled once; the text is SQLAlchemy's compiler's for either database."""

    def __init__(self, statement: sa.Insert | sa.Delete, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order = compiled.positiontup

    def many(self, driver: Driver, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs it for every row; for none it does nothing."""
        if rows:
            order = self._order
            driver.run_each(self._text, [[row[name] for name in order] for row in rows] if order else rows)


class _Insert(_Write):
    """An insertion, of which SQLite gets up to 64 rows as one statement.

    Its driver lets go of the interpreter's lock twice for each statement that it runs, and has to wait for the lock
    each time while the loop is busy: row by row, a commit of 20 requests took 10 to 14 ms beside a busy loop and 1.7 ms
    of processor, together half of the time and two thirds of the processor (measured). psycopg sends all rows in one
    round trip anyhow. Every number of rows is a text of its own, which the driver keeps compiled, so only powers of two
    are used.
    """

    def __init__(self, statement: sa.Insert, dialect: sa.Dialect) -> None:
        super().__init__(statement, dialect)
        if self._order:
            self._values = itemgetter(*self._order)
            row = f"({', '.join('?' * len(self._order))})"
            self._texts = [(n, self._text.replace(row, ", ".join([row] * n), 1)) for n in _TOGETHER]

    def many(self, driver: Driver, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs it for every row; for none it does nothing."""
        if not self._order:
            super().many(driver, rows)
            return
        start = 0
        for number, text in self._texts:
            while len(rows) - start >= number:
                some = rows[start : start + number]
                driver.run(text, tuple(chain.from_iterable(map(self._values, some))))
                start += number


class Lookup:
    """Finds the workloads that have one of some values in a column.

    SQLAlchemy writes the text of ``IN`` anew each time, which costs more than SQLite needs to look. Here every number
    of values is a text of its own, which drivers keep compiled, so only powers of two are used.

    Args:
        also: condition that always holds, with the first value.
    """

    def __init__(self, column: sa.Column[str], dialect: sa.Dialect, also: str = "") -> None:
        mark = "?" if dialect.name == "sqlite" else "%s"
        self._text = f"SELECT id, body FROM {WORKLOADS.name} WHERE {also.replace('?', mark)}{column.name} IN ({{}})"  # noqa: S608 - no value is in it
        self._mark = mark

    def rows(self, connection: sa.Connection, values: Sequence[str], *first: str) -> sa.CursorResult[Any]:
        """Returns the ids and bodies.

        Args:
            values: at least one.
            first: what ``also`` has a place for.
        """
        number = 1 << (len(values) - 1).bit_length()
        padded = (*values, *[values[-1]] * (number - len(values)))
        text = self._text.format(", ".join([self._mark] * number))
        return connection.exec_driver_sql(text, (*first, *padded))


class Statements:
    """The statements of the hot path, for one database."""

    def __init__(self, dialect: sa.Dialect) -> None:
        self.by_id = Lookup(WORKLOADS.c.id, dialect)
        self.by_key = Lookup(WORKLOADS.c.request_id, dialect, "account = ? AND request_id <> '' AND ")
        self.insert_events = _Insert(_append(EVENTS), dialect)
        self.insert_postings = _Insert(_append(POSTINGS), dialect)
        self.upsert_accounts = _Insert(_upsert(ACCOUNTS, dialect), dialect)
        self.upsert_entries = _Insert(_upsert(ENTRIES, dialect), dialect)
        self.upsert_keys = _Insert(_upsert(KEYS, dialect), dialect)
        self.upsert_nodes = _Insert(_upsert(NODES, dialect), dialect)
        self.upsert_workloads = _Insert(_upsert(WORKLOADS, dialect), dialect)
        self.upsert_models = _Insert(_upsert(MODELS, dialect), dialect)
        self.upsert_quotas = _Insert(_upsert(QUOTAS, dialect), dialect)
        self.upsert_reservations = _Insert(_upsert(RESERVATIONS, dialect), dialect)
        self.add_tallies = _Insert(_add(TALLIES, "workloads", dialect), dialect)
        self.delete_models = _Write(_delete(MODELS), dialect)
        self.delete_keys = _Write(_delete(KEYS), dialect)
        self.delete_quotas = _Write(_delete(QUOTAS), dialect)
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


def _delete(table: sa.Table) -> sa.Delete:
    return sa.delete(table).where(table.c.id == sa.bindparam("id"))


def _insert(table: sa.Table, dialect: sa.Dialect) -> sqlite.Insert | postgresql.Insert:
    values: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in table.c}
    if dialect.name == "postgresql":
        return postgresql.insert(table).values(values)
    return sqlite.insert(table).values(values)
