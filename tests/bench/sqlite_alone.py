"""The bare thing beside durable submissions: SQLite alone, committing the same rows ready-made."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter

from arcray.control.rows import event_row, workload_row
from arcray.core import events as ev
from arcray.core.workload import Workload, WorkloadSpec

__all__ = ["rows_by_sqlite_alone"]


def rows_by_sqlite_alone(directory: Path, batches: Sequence[Sequence[WorkloadSpec]]) -> float:
    """Returns submissions per second when the rows and events of each batch are written by sqlite3 in one commit."""
    with closing(sqlite3.connect(directory / "bare.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER, kind TEXT, subject TEXT,"
            " body TEXT)"
        )
        database.execute(
            "CREATE TABLE workloads (id TEXT PRIMARY KEY, kind TEXT, phase TEXT, account TEXT, facade TEXT,"
            " external_id TEXT, node_id TEXT, request_id TEXT, created_at INTEGER, finished_at INTEGER, body TEXT)"
        )
        ready = []
        for specs in batches:
            events = [tuple(event_row(ev.WorkloadSubmitted(spec=spec, at=spec.created_at)).values()) for spec in specs]
            ready.append((events, [tuple(workload_row(Workload(spec=spec)).values()) for spec in specs]))
        began = perf_counter()
        for events, workloads in ready:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO events (at, kind, subject, body) VALUES (?, ?, ?, ?)", events)
            database.executemany("INSERT INTO workloads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", workloads)
            database.execute("COMMIT")
        return sum(map(len, batches)) / (perf_counter() - began)
