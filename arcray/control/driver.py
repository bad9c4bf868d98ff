"""The short way to the database: transactions on its driver itself, for what is written all the time.

SQLAlchemy's execution costs 80 us a statement and 4 us a row here, more than SQLite needs to run it, and all of it
under the interpreter's lock. What it gives is kept: its compiler's text (``statements``), its connections, its word on
which errors mean a lost connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

__all__ = ["Driver"]


class Driver:
    """One connection of the engine, without what stands between; nobody else uses it meanwhile.

    Raises:
        DBAPIError: from every method, as SQLAlchemy raises it.
    """

    __slots__ = ("_connection", "_cursor", "_dialect", "_raw")

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._dialect: Any = connection.dialect  # typed too narrowly for drivers' cursors
        raw: Any = connection.connection.dbapi_connection
        self._raw = raw
        self._cursor: Any = raw.cursor()

    def begin(self) -> None:
        """Begins a transaction that writes. PostgreSQL's driver does so by itself, with the first statement."""
        if self._dialect.name == "sqlite":
            self.run("BEGIN IMMEDIATE")

    def run(self, text: str, values: Sequence[Any] = ()) -> None:
        """Runs a statement once."""
        self._call(self._dialect.do_execute, self._cursor, text, values)

    def run_each(self, text: str, rows: Iterable[Any]) -> None:
        """Runs a statement for each row, in as few round trips as the driver can."""
        self._call(self._dialect.do_executemany, self._cursor, text, rows)

    def number(self, text: str) -> int:
        """Runs a statement that answers with one number."""
        self.run(text)
        (number,) = self._call(self._cursor.fetchone)
        return int(number)

    def commit(self) -> None:
        """Ends the transaction; everything is on disk."""
        self._call(self._dialect.do_commit, self._raw)

    def roll_back(self) -> None:
        """Ends the transaction, without a trace; does nothing where the connection is lost, which ends it as well."""
        try:
            self._dialect.do_rollback(self._raw)
        except self._dialect.loaded_dbapi.Error:
            self._connection.invalidate()

    def _call(self, what: Callable[..., Any], *args: Any) -> Any:
        errors = self._dialect.loaded_dbapi.Error
        try:
            return what(*args)
        except errors as error:
            lost = bool(self._dialect.is_disconnect(error, self._raw, self._cursor))
            raise DBAPIError.instance(
                None, None, error, errors, hide_parameters=True, connection_invalidated=lost, dialect=self._dialect
            ) from error
