"""Faults of the database, and what must hold whatever they do: for tests of durability.

These look inside the control plane on purpose; nothing else should.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from arcray.control.plane import Plane
from arcray.control.rows import decode_event, decode_row, durable_node
from arcray.core.cluster import Cluster
from arcray.core.events import Event, WorkloadFinished
from arcray.core.ids import WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, durable_account
from arcray.core.node import Node
from arcray.core.policy import ClusterPolicy
from arcray.core.state import ClusterState
from arcray.core.workload import Workload

__all__ = ["FailPoints", "check_memory_is_the_rows", "folded", "folded_state", "journalled", "stored_workloads"]

_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


class FailPoints:
    """Counts the steps that the journal's writing thread takes, and fails at those that ``arm`` names.

    Each statement is two steps, before and after it is executed, and so is each commit: a commit that fails after the
    database did it is the case in which nobody knows.

    Attributes:
        steps: taken since it was armed.
        failed: how many of them failed.
    """

    def __init__(self, plane: Plane) -> None:
        self.steps = 0
        self.failed = 0
        self._fail_at: Callable[[int], bool] | None = None
        engine = plane._journal._engine  # noqa: SLF001 - faults come from below every interface
        sa.event.listen(engine, "before_cursor_execute", self._statement)
        sa.event.listen(engine, "after_cursor_execute", self._statement)
        self._commit = engine.dialect.do_commit
        setattr(engine.dialect, "do_commit", self._failing_commit)  # noqa: B010 - a method, to the type checker

    @contextmanager
    def arm(self, fail_at: Callable[[int], bool]) -> Iterator[None]:
        """Fails the steps, counted from 1, for which ``fail_at`` says so, within the block."""
        self.steps, self.failed, self._fail_at = 0, 0, fail_at
        try:
            yield
        finally:
            self._fail_at = None

    def _statement(self, connection: sa.Connection, *_: Any) -> None:
        if connection.get_execution_options().get("arcray_writes"):
            self._step()

    def _failing_commit(self, connection: Any) -> None:
        self._step()
        self._commit(connection)
        self._step()

    def _step(self) -> None:
        if self._fail_at is None:
            return
        self.steps += 1
        if self._fail_at(self.steps):
            self.failed += 1
            raise sqlite3.OperationalError("database or disk is full")


def stored_workloads(path: Path) -> dict[WorkloadId, Workload]:
    """Returns the rows of all workloads in a SQLite file, read past the control plane."""
    with closing(sqlite3.connect(path)) as connection:
        stored = connection.execute("SELECT id, body FROM workloads").fetchall()
    return {WorkloadId(identity): decode_row(Workload, identity, body) for identity, body in stored}


def journalled(path: Path) -> list[Event]:
    """Returns all events in a SQLite file, in order."""
    with closing(sqlite3.connect(path)) as connection:
        return [decode_event(*row) for row in connection.execute("SELECT kind, body FROM events ORDER BY seq")]


def folded(events: Iterable[Event]) -> dict[WorkloadId, Workload]:
    """Returns the workloads that follow from these events alone."""
    return folded_state(events).workloads


def folded_state(events: Iterable[Event]) -> ClusterState:
    """Returns the state that follows from these events alone."""
    state = Cluster(ClusterPolicy(), _BEGINNING).state
    for event in events:
        if isinstance(event, WorkloadFinished) and event.spec is not None:
            # The first that is journalled of a request tells the whole of it.
            state.workloads[event.workload_id] = Workload(
                spec=event.spec,
                phase=event.phase,
                attempt=event.attempt,
                node_id=event.node_id,
                message=event.message,
                result=event.result,
                placed_at=event.placed_at,
                started_at=event.started_at,
                finished_at=event.at,
            )
        else:
            state.apply(event)
    return state


async def check_memory_is_the_rows(plane: Plane, path: Path) -> None:
    """Asserts that, once everything is on disk, memory and a SQLite file say the same and memory is sound."""
    writer = plane._writer  # noqa: SLF001 - this is what it is about
    await writer.commits.idle()
    state = writer.cluster.state
    state.check_invariants()
    durable = {key: workload for key, workload in state.workloads.items() if not workload.spec.waiting}
    stored = stored_workloads(path)
    assert {key: stored.get(key) for key in durable} == durable
    assert {key for key, workload in stored.items() if not workload.phase.terminal} <= set(durable)
    with closing(sqlite3.connect(path)) as connection:
        nodes = [decode_row(Node, *row) for row in connection.execute("SELECT id, body FROM nodes")]
    assert {node.id for node in nodes} == set(state.nodes)
    for node in nodes:
        known = state.nodes[node.id]
        assert replace(node, last_seen=known.last_seen) == durable_node(known)  # heartbeats are not written
    _check_ledger_and_keys(state, path)


def _check_ledger_and_keys(state: ClusterState, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        accounts = connection.execute("SELECT id, body, available, held FROM accounts").fetchall()
        posted = connection.execute("SELECT account, book, sum(credits) FROM postings GROUP BY 1, 2").fetchall()
        keys = [decode_row(ApiKey, *row) for row in connection.execute("SELECT id, body FROM api_keys")]
    stored = {identity: decode_row(Account, identity, body) for identity, body, _, _ in accounts}
    assert stored == {account.id: durable_account(account) for account in state.books.accounts.values()}
    balances = {(identity, "available"): available for identity, _, available, _ in accounts}
    balances |= {(identity, "held"): held for identity, _, _, held in accounts}
    sums = {(account, book): credits for account, book, credits in posted}
    assert {book: sums.get(book, 0) for book in balances} == balances
    assert sum(sums.values()) == 0
    assert {key.id: key for key in keys} == state.keys.keys
