"""The bare thing beside durable submissions: SQLite alone, committing the same rows ready-made."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter

from arcray.control.rows import Row, event_row, workload_row
from arcray.core import events as ev
from arcray.core.workload import Workload, WorkloadSpec

__all__ = ["rows_by_sqlite_alone"]


def rows_by_sqlite_alone(directory: Path, batches: Sequence[Sequence[WorkloadSpec]]) -> float:
    """Returns submissions per second when the rows and events of each batch are written by sqlite3 in one commit."""
    with closing(sqlite3.connect(directory / "bare.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        event, row = _event(batches[0][0]), workload_row(Workload(spec=batches[0][0]))
        add_event = _table(database, "events", "seq INTEGER PRIMARY KEY AUTOINCREMENT", event)
        add_workload = _table(database, "workloads", "", row)
        ready = []
        for specs in batches:
            events = [tuple(_event(spec).values()) for spec in specs]
            ready.append((events, [tuple(workload_row(Workload(spec=spec)).values()) for spec in specs]))
        began = perf_counter()
        for events, workloads in ready:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(add_event, events)
            database.executemany(add_workload, workloads)
            database.execute("COMMIT")
        return sum(map(len, batches)) / (perf_counter() - began)


def _event(spec: WorkloadSpec) -> Row:
    return event_row(ev.WorkloadSubmitted(spec=spec, at=spec.created_at))


def _table(database: sqlite3.Connection, name: str, number: str, row: Row) -> str:
    """Makes a table for rows like this one, whatever columns they have by now; returns the insertion of one."""
    columns = [f"{column} PRIMARY KEY" if column == "id" else column for column in row]
    database.execute(f"CREATE TABLE {name} ({', '.join([number, *columns] if number else columns)})")
    return f"INSERT INTO {name} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
