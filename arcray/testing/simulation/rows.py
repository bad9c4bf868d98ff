"""The rows and events of a SQLite file, read past the control plane."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TypeVar

from arcray.control.rows import decode_event, decode_row
from arcray.core.events import Event
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.reservation import Reservation
from arcray.core.workload import Workload

__all__ = ["RowReader"]

_T = TypeVar("_T")
_TABLES = {
    "workloads": Workload,
    "nodes": Node,
    "models": Model,
    "accounts": Account,
    "api_keys": ApiKey,
    "reservations": Reservation,
}


class RowReader:
    """Reads what is committed."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        self._path = path
        self._last = 0

    def new_events(self) -> list[Event]:
        """Returns the events that were committed since the last call."""
        connection = self._connect()
        if connection is None:
            return []
        told = (
            "SELECT e.seq, e.kind, e.body, w.body FROM events e"
            " LEFT JOIN workloads w ON e.body = '' AND w.id = e.subject WHERE e.seq > ? ORDER BY e.seq"
        )
        rows = connection.execute(told, (self._last,))
        found = rows.fetchall()
        if found:
            self._last = found[-1][0]
        return [decode_event(kind, body, workload_body) for _, kind, body, workload_body in found]

    def workload(self, workload_id: str) -> Workload | None:
        """Returns one row."""
        connection = self._connect()
        assert connection is not None
        row = connection.execute("SELECT id, body FROM workloads WHERE id = ?", (workload_id,)).fetchone()
        return None if row is None else decode_row(Workload, *row)

    def all(self, kind: type[_T]) -> list[_T]:
        """Returns all rows of one kind."""
        connection = self._connect()
        table = next(name for name, of in _TABLES.items() if of is kind)
        if connection is None:
            return []
        return [decode_row(kind, *row) for row in connection.execute(f"SELECT id, body FROM {table}")]  # noqa: S608 - our own names

    def sums(self) -> dict[tuple[str, str], int]:
        """Returns what all postings come to, by account and book."""
        connection = self._connect()
        if connection is None:
            return {}
        told = connection.execute("SELECT account, book, SUM(credits) FROM postings GROUP BY account, book")
        return {(account, book): credits for account, book, credits in told}

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> sqlite3.Connection | None:
        """Returns a connection once there are tables."""
        if self._connection is None and self._path.exists():
            connection = sqlite3.connect(self._path)
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone() is None:
                connection.close()
                return None
            self._connection = connection
        return self._connection
