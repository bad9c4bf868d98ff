"""Faults of the database, and what must hold whatever they do: for tests of durability.

These look inside the control plane on purpose; nothing else should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, assert_never

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.control.rows import decode_event, decode_row, durable_node
from arcray.core.cluster import Cluster
from arcray.core.errors import UnavailableError
from arcray.core.events import Event, WorkloadFinished
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, Book, Entry, Posting, durable_account
from arcray.core.node import Node
from arcray.core.policy import ClusterPolicy
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.workload import Workload

__all__ = [
    "AwaitPoints",
    "FailPoints",
    "Failure",
    "around_statements",
    "check_memory_is_the_rows",
    "folded",
    "folded_state",
    "journalled",
    "posted",
    "stored_accounts",
    "stored_workloads",
]

_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Failure(StrEnum):
    """What a step that fails has done."""

    NOT_DONE = "not done"
    DONE = "done"  # and nobody was told: an acknowledgement that was lost
    DONE_LATER = "done later"  # a time-out, after which it came through
    BUG = "bug"  # an exception that nobody thought of


class _Points:
    """Counts steps, and says which of them fail.

    Attributes:
        steps: taken since it was armed.
        failed: how many of them failed.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.failed = 0
        self._fail_at: Callable[[int], bool] | None = None

    @contextmanager
    def arm(self, fail_at: Callable[[int], bool]) -> Iterator[None]:
        """Fails the steps, counted from 1, for which ``fail_at`` says so, within the block."""
        self.steps, self.failed, self._fail_at = 0, 0, fail_at
        try:
            yield
        finally:
            self._fail_at = None

    def _fails(self) -> bool:
        """Counts a step, and says whether it is to fail; unarmed, nothing counts."""
        if self._fail_at is None:
            return False
        self.steps += 1
        failing = self._fail_at(self.steps)
        self.failed += failing
        return failing


class FailPoints(_Points):
    """Counts the steps that the journal's writing thread takes, and fails at those that ``arm`` names.

    Each statement is two steps, before and after it is executed, and so is each commit: a commit that fails after the
    database did it is the case in which nobody knows.

    Args:
        fail: what a step does that fails; by default it raises what a full disk does.
    """

    def __init__(self, plane: Plane, *, fail: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._fail = fail or self._is_full
        journal = plane._journal  # noqa: SLF001 - faults come from below every interface
        dialect: Any = journal._engine.dialect  # noqa: SLF001
        self._driver: Any = dialect.loaded_dbapi
        around_statements(journal, self._step)
        self._commit = dialect.do_commit
        dialect.do_commit = self._failing_commit

    def _failing_commit(self, connection: Any) -> None:
        self._step()
        self._commit(connection)
        self._step()

    def _step(self) -> None:
        if self._fails():
            self._fail()

    def _is_full(self) -> None:
        raise self._driver.OperationalError("database or disk is full")


def around_statements(journal: Journal, step: Callable[[], None]) -> None:
    """Calls ``step`` before and after every statement of the writing thread; what it raises is the database's error."""
    dialect: Any = journal._engine.dialect  # noqa: SLF001 - faults come from below every interface

    def stepping(execute: Callable[..., None]) -> Callable[..., None]:
        def call(cursor: Any, *args: Any) -> None:
            writer = journal._writer  # noqa: SLF001
            writes = writer is not None and writer.connection.dbapi_connection is cursor.connection
            if writes:
                step()
            execute(cursor, *args)
            if writes:
                step()

        return call

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, stepping(getattr(dialect, name)))


class AwaitPoints(_Points):
    """Counts what the control plane awaits of the journal between applying and answering, and fails as ``how`` says.

    Where ``FailPoints`` fails what the database does, this fails what the loop is told of it.
    """

    def __init__(self, plane: Plane, how: Failure) -> None:
        super().__init__()
        self._how = how
        self._late: set[asyncio.Future[Any]] = set()
        journal = plane._journal  # noqa: SLF001 - faults come from below every interface
        for name in ("append", "load", "probe", "workload", "earlier"):
            setattr(journal, name, self._failing(getattr(journal, name)))

    def _failing(self, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if not self._fails():
                return await real(*args, **kwargs)
            match self._how:
                case Failure.NOT_DONE:
                    pass
                case Failure.DONE:
                    await real(*args, **kwargs)
                case Failure.DONE_LATER:
                    late = asyncio.ensure_future(real(*args, **kwargs))
                    self._late.add(late)
                    late.add_done_callback(self._late.discard)
                    await asyncio.sleep(0)  # it is in the journal's thread, before anything that follows
                case Failure.BUG:
                    raise ZeroDivisionError
                case _:
                    assert_never(self._how)
            raise UnavailableError("the database failed: so the loop is told")

        return call


def stored_workloads(database: Path | str) -> dict[WorkloadId, Workload]:
    """Returns the rows of all workloads, read past the control plane.

    Args:
        database: a SQLite file, or an SQLAlchemy URL.
    """
    stored = _rows(database, "SELECT id, body FROM workloads")
    return {WorkloadId(identity): decode_row(Workload, identity, body) for identity, body in stored}


def stored_accounts(database: Path | str) -> dict[AccountId, Account]:
    """Returns the rows of all accounts; their balances are what the columns say, which SQL can add up."""
    stored = _rows(database, "SELECT id, body, available, held FROM accounts")
    return {
        AccountId(identity): replace(decode_row(Account, identity, body), available=available, held=held)
        for identity, body, available, held in stored
    }


def posted(database: Path | str) -> list[Entry]:
    """Returns all entries in the order of their first posting, each with all postings that stand under its id."""
    entries: dict[str, Entry] = {}
    told = "SELECT entry, body, account, book, credits, balance FROM postings ORDER BY seq"
    for identity, body, account, book, credits, balance in _rows(database, told):
        entry = entries.get(identity) or decode_row(Entry, identity, body)
        posting = Posting(account=AccountId(account), book=Book(book), credits=credits, balance=balance)
        entries[identity] = replace(entry, postings=(*entry.postings, posting))
    return list(entries.values())


def journalled(database: Path | str) -> list[Event]:
    """Returns all events, in order."""
    told = (
        "SELECT e.kind, e.body, w.body FROM events e"
        " LEFT JOIN workloads w ON e.body = '' AND w.id = e.subject ORDER BY e.seq"
    )
    return [decode_event(*row) for row in _rows(database, told)]


def _rows(database: Path | str, statement: str) -> list[Any]:
    url = f"sqlite:///{database}" if isinstance(database, Path) else database
    with _engine(url).connect() as connection:
        return list(connection.exec_driver_sql(statement))


@lru_cache(8)
def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=NullPool)


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


async def check_memory_is_the_rows(plane: Plane, database: Path | str) -> None:
    """Asserts that, once everything is on disk, memory and the rows say the same and memory is sound."""
    writer = plane._writer  # noqa: SLF001 - this is what it is about
    await writer.commits.idle()
    state = writer.cluster.state
    state.check_invariants()
    counted = _rows(database, "SELECT account, kind, phase, count(*) FROM workloads GROUP BY account, kind, phase")
    tallied = _rows(database, "SELECT account, kind, phase, workloads FROM tallies WHERE workloads <> 0")
    assert sorted(map(tuple, tallied)) == sorted(map(tuple, counted))
    durable = {key: workload for key, workload in state.workloads.items() if not workload.spec.waiting}
    stored = stored_workloads(database)
    assert {key: stored.get(key) for key in durable} == durable
    assert {key for key, workload in stored.items() if not workload.phase.terminal} <= set(durable)
    nodes = [decode_row(Node, *row) for row in _rows(database, "SELECT id, body FROM nodes")]
    held = [decode_row(Reservation, *row) for row in _rows(database, "SELECT id, body FROM reservations")]
    rows = {reservation.id: reservation for reservation in held}
    assert {reservation.id: rows.get(reservation.id) for reservation in state.reservations.all()} == {
        reservation.id: reservation for reservation in state.reservations.all()
    }
    assert {node.id for node in nodes} == set(state.nodes)
    for node in nodes:
        known = state.nodes[node.id]
        assert replace(node, last_seen=known.last_seen) == durable_node(known)  # heartbeats are not written
    _check_ledger_and_keys(state, database)


def _check_ledger_and_keys(state: ClusterState, database: Path | str) -> None:
    accounts = _rows(database, "SELECT id, body, available, held FROM accounts")
    posted = _rows(database, "SELECT account, book, sum(credits) FROM postings GROUP BY account, book")
    keys = [decode_row(ApiKey, *row) for row in _rows(database, "SELECT id, body FROM api_keys")]
    stored = {identity: decode_row(Account, identity, body) for identity, body, _, _ in accounts}
    assert stored == {account.id: durable_account(account) for account in state.books.accounts.values()}
    balances = {(identity, "available"): available for identity, _, available, _ in accounts}
    balances |= {(identity, "held"): held for identity, _, _, held in accounts}
    sums = {(account, book): int(credits) for account, book, credits in posted}
    assert {book: sums.get(book, 0) for book in balances} == balances
    assert sum(sums.values()) == 0
    assert {key.id: key for key in keys} == state.keys.keys
