"""The journal: durable events and the current rows they lead to, one transaction per batch.

What lives here: SQL and threads. What does not: what is written when (committer), what the JSON means (rows).

One connection writes, in a thread of its own or in the loop where that is cheaper (``worker``); another thread reads,
so that no list of a long history delays a commit. SQLite by default (write-ahead log, synchronous FULL: a commit that
returned survives a power cut); any PostgreSQL by URL. Invariants: a batch is on disk entirely or not at all; a journal
that another scheduler has opened since writes nothing more (``FencedError``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from arcray.config import DatabaseSettings
from arcray.control import database, revision
from arcray.control.driver import Driver
from arcray.control.ledger_rows import load_keys, load_ledger, load_revoked, read_entry, read_statement
from arcray.control.pages import INFERENCE, NEWEST_FIRST, NOT_INFERENCE, read_page
from arcray.control.rows import Row, decode_event, decode_row
from arcray.control.schema import EVENTS, GENERATION, META, MODELS, NODES, QUOTAS, RESERVATIONS, WORKLOADS
from arcray.control.sqlite_file import LogGoneError, SqliteFile, in_memory
from arcray.control.statements import Statements
from arcray.control.worker import Worker
from arcray.core.books import REQUESTS_KEPT
from arcray.core.cluster import Ledger
from arcray.core.errors import UnavailableError
from arcray.core.events import Event
from arcray.core.ids import AccountId, KeyId, ModelId, ReservationId, WorkloadId
from arcray.core.keyring import REVOKED_KEPT
from arcray.core.keys import ApiKey
from arcray.core.ledger import Entry
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.queries import GetStatement, ListWorkloads, Statement
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation
from arcray.core.workload import Workload

__all__ = ["FencedError", "Journal", "Live", "Records"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_S = TypeVar("_S", bound=str)
_IN_LIMIT: Final = 512  # values in one statement; SQLite takes 999 before 3.32
_MEMORIES: Final = 1_000  # that one scheduler can make before their numbers are those of the next one


class FencedError(UnavailableError):
    """Another scheduler has taken over this database; this one writes nothing more and must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What one transaction writes.

    Args:
        events: in order.
        nodes, workloads, models, reservations, accounts, keys, quotas: current rows; one per id.
        removed_models, removed_keys, removed_quotas: ids of rows to delete.
        postings: in order.
        entries: those with an idempotency key.
        tallies: by how much the numbers of workloads change with these rows; one per account, kind and phase.
    """

    events: Sequence[Row] = ()
    nodes: Sequence[Row] = ()
    workloads: Sequence[Row] = ()
    models: Sequence[Row] = ()
    reservations: Sequence[Row] = ()
    tallies: Sequence[Row] = ()
    removed_models: Sequence[ModelId] = ()
    accounts: Sequence[Row] = ()
    postings: Sequence[Row] = ()
    entries: Sequence[Row] = ()
    keys: Sequence[Row] = ()
    removed_keys: Sequence[KeyId] = ()
    quotas: Sequence[Row] = ()
    removed_quotas: Sequence[AccountId] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a scheduler goes on from.

    Args:
        workloads: all live ones and the newest finished ones.
        memory: number of the memory that is made of it; every one ever made of this database has a higher one.
        reservations: all active ones and the newest that ended.
        revoked: the newest keys that were revoked, earliest first.
        left_out_until: creation of the newest finished workload that is not among them, None when all are.
    """

    nodes: list[Node] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    memory: int = 0
    reservations: list[Reservation] = field(default_factory=list)
    quotas: list[AccountQuota] = field(default_factory=list)
    left_out_until: datetime | None = None
    ledger: Ledger = field(default_factory=Ledger)
    keys: list[ApiKey] = field(default_factory=list)
    revoked: list[KeyId] = field(default_factory=list)


class Journal:
    """One database.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://…``.
        settings: how long it may take.
    """

    def __init__(self, url: str | sa.URL, settings: DatabaseSettings | None = None) -> None:
        settings = settings or DatabaseSettings()
        self._engine = database.engine(url, settings)
        self._file = SqliteFile(url)
        self._file.watch(self._engine)
        self._commit_timeout_s = settings.commit_timeout_s
        self._patience_s = settings.busy_timeout_s
        # A database in memory is one connection, so one thread.
        self._in_memory = in_memory(url)
        on_disk = self._engine.dialect.name == "sqlite" and not self._in_memory
        self._writes = Worker("arcray-journal", brief_s=settings.stand_still_s if on_disk else 0.0)
        self._reads = self._writes if self._in_memory else Worker("arcray-history")
        self._writer: sa.Connection | None = None
        self._patient = True  # whether the writer waits for someone else's lock
        self._generation = 0
        self._memories = 0
        self._sql = Statements(self._engine.dialect)

    async def open(self) -> None:
        """Brings the tables up to date and fences earlier schedulers off.

        Raises:
            InvalidArgumentError: what lies there is not ours to open, or lacks what belongs to it.
            UnavailableError: the database cannot be reached, written or migrated.
        """
        await self._in(self._writes, self._open)

    async def close(self) -> None:
        """Finishes what is being written and closes."""
        await self._in(self._writes, self._disconnect)
        await self._in(self._writes, self._engine.dispose)
        self._writes.close()
        self._reads.close()

    async def append(self, records: Records) -> None:
        """Writes one batch.

        Raises:
            FencedError: another scheduler opened the database since.
            UnavailableError: it could not be written, or not in time; whether it was is known only from the rows.
        """
        try:
            await self._writes.run_brief(
                partial(self._mapped, self._append_at_once),
                partial(self._mapped, self._append),
                records,
                limit_s=self._commit_timeout_s,
            )
        except TimeoutError:
            # The thread may still write it; ``load`` reads in the same thread, after it.
            raise UnavailableError(f"the database did not commit within {self._commit_timeout_s:g} s") from None

    async def probe(self) -> None:
        """Writes and commits, changing nothing.

        Raises:
            FencedError, UnavailableError: as ``append``.
        """
        await self._in(self._writes, self._probe)

    async def load(self, *, keep_finished: int, keep_finished_inference: int, keep_reservations: int = 1_000) -> Live:
        """Returns what a scheduler goes on from, after every write begun before.

        Raises:
            FencedError: another scheduler opened the database since.
            InternalError: a row cannot be read; names it.
            UnavailableError: the database cannot be read.
        """
        return await self._in(self._writes, self._load, keep_finished, keep_finished_inference, keep_reservations)

    async def workload(self, workload_id: WorkloadId) -> Workload | None:
        """Returns a workload's row."""
        found = await self.earlier({workload_id}, {})
        return found[0] if found else None

    async def earlier(self, ids: AbstractSet[WorkloadId], keys: Mapping[AccountId, AbstractSet[str]]) -> list[Workload]:
        """Returns the workloads that have one of these ids, or were submitted under one of these idempotency keys."""
        return await self._found(self._earlier, ids, keys)

    async def reservation(self, reservation_id: ReservationId) -> Reservation | None:
        """Returns a reservation's row."""
        return await self._found(self._one, Reservation, RESERVATIONS, reservation_id)

    async def workloads(self, query: ListWorkloads, *, limit: int, offset: int) -> tuple[list[Workload], int | None]:
        """Returns a page of what the query's filters show, newest first, and the number of all on first pages."""
        return await self._found(self._read, read_page, query, limit, offset)

    async def entry(self, asked_by: AccountId, request_id: str) -> Entry | None:
        """Returns the entry that was made under an idempotency key."""
        return await self._found(self._read, read_entry, asked_by, request_id)

    async def statement(self, query: GetStatement) -> Statement:
        """Returns a page of an account's postings, newest first."""
        return await self._found(self._read, read_statement, query)

    async def events(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Returns events with their sequence numbers, in order, beginning after one of those."""
        return await self._found(self._events, after, limit)

    async def read(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Runs ``work`` in a transaction of the reading thread.

        Raises:
            UnavailableError: the database cannot be read.
        """
        return await self._found(self._read, work)

    async def write(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Runs ``work`` in a transaction of the writing thread, between two batches. It should be short.

        Raises:
            FencedError, UnavailableError: as ``append``.
        """
        return await self._in(self._writes, self._write, work)

    # -- in the threads, or in place -----------------------------------------------------------------------------------

    async def _found(self, work: Callable[..., _T], *args: Any) -> _T:
        try:
            return await self._in(self._reads, work, *args)
        except LogGoneError:
            await self.probe()  # which saves it
            return await self._in(self._reads, work, *args)

    async def _in(self, thread: Worker, work: Callable[..., _T], *args: Any) -> _T:
        return await thread.run(self._mapped, work, *args)

    def _mapped(self, work: Callable[..., _T], *args: Any) -> _T:
        try:
            return work(*args)
        except SQLAlchemyError as error:
            raise UnavailableError(f"the database failed: {database.said(error)}") from error

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction of the writing thread that no other scheduler's can overlap.

        After a failure the connection is dropped: it may be half dead. Taking the lock of the fence first has a second
        use. Where the client lost its connection in the middle of a commit, the server may still be at it, and what is
        read behind that lock is read after it.
        """
        try:
            with self._begin() as transaction:
                yield transaction.connection
        except SQLAlchemyError:
            self._drop()
            raise

    @contextmanager
    def _committing(self, *, patient: bool = True) -> Iterator[Driver]:
        """One transaction as those of ``_writing``, the short way: for what is written all the time."""
        try:
            driver = self._again_if_dead(partial(self._begin_short, patient=patient))
            try:
                yield driver
                driver.commit()
            except BaseException:
                driver.roll_back()
                raise
        except SQLAlchemyError:
            self._drop()
            raise

    def _begin(self) -> sa.RootTransaction:
        return self._again_if_dead(self._begin_fenced)

    def _again_if_dead(self, begin: Callable[[], _T]) -> _T:
        """Begins a transaction behind the fence; a connection that died in idleness is replaced, once."""
        try:
            return begin()
        except DBAPIError as error:
            # Nothing of this transaction was sent before, so doing it again does nothing twice.
            if not error.connection_invalidated:
                raise
            self._drop()
        return begin()

    def _begin_short(self, *, patient: bool) -> Driver:
        self._check_file(patient=patient)
        driver = Driver(self._connected(patient=patient))
        try:
            driver.begin()
            if driver.number(self._sql.generation) != self._generation:
                raise FencedError  # noqa: TRY301 - a failure like any other, after which nothing may stay locked
        except BaseException:
            driver.roll_back()
            raise
        return driver

    def _begin_fenced(self) -> sa.RootTransaction:
        self._check_file()
        connection = self._connected()
        transaction = connection.begin()
        try:
            newest = connection.exec_driver_sql(self._sql.generation).scalar_one()
            if newest != self._generation:
                raise FencedError  # noqa: TRY301 - as above
        except BaseException:
            transaction.rollback()
            raise
        return transaction

    def _check_file(self, *, patient: bool = True) -> None:
        """Makes sure that what is written now will be found; a log that has gone is saved by whom has it open yet."""
        try:
            self._file.check()
        except LogGoneError:
            if not patient:
                raise
            database.empty_log(self._connected())
            self._drop()
            self._engine.dispose()  # those of readers have the old log too
            _log.warning("the write-ahead log of the database had gone; nothing is lost, a new one is begun")

    def _connected(self, *, patient: bool = True) -> sa.Connection:
        if self._writer is None:
            self._writer = database.writer(self._engine)
            self._file.log_opened()
            self._patient = True
        if patient is not self._patient:
            database.wait_for_locks(self._writer, self._patience_s if patient else 0)
            self._patient = patient
        return self._writer

    def _drop(self) -> None:
        if self._writer is not None and not self._in_memory:
            self._writer.invalidate()
            self._disconnect()

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._file.log_closed()

    def _open(self) -> None:
        try:
            connection = self._connected()
            with connection.begin():
                database.check(connection)
                if not revision.is_newest(connection):
                    from arcray.control.migrations import migrate  # late, for the reason that ``revision`` has

                    migrate(connection)
            with connection.begin():
                grown = sa.update(META).where(GENERATION).values(value=META.c.value + 1).returning(META.c.value)
                self._generation = connection.execute(grown).scalar_one()
        except SQLAlchemyError:
            self._drop()
            raise
        self._file.opened()
        self._file.log_opened()  # once more: the log of a new file begins with its first transaction

    def _append_at_once(self, records: Records) -> bool:
        """Writes a batch unless it would wait for a connection or a lock; returns whether it has."""
        if self._writer is None:
            return False
        try:
            self._append(records, patient=False)
        except LogGoneError:
            return False  # saving it takes a while
        except DBAPIError as error:
            if database.is_held(error):
                return False
            raise
        return True

    def _append(self, records: Records, *, patient: bool = True) -> None:
        sql = self._sql
        with self._committing(patient=patient) as driver:
            sql.insert_events.many(driver, records.events)
            sql.upsert_nodes.many(driver, records.nodes)
            sql.upsert_workloads.many(driver, records.workloads)
            sql.upsert_models.many(driver, records.models)
            sql.upsert_reservations.many(driver, records.reservations)
            sql.add_tallies.many(driver, records.tallies)
            sql.delete_models.many(driver, [{"id": model_id} for model_id in records.removed_models])
            sql.upsert_accounts.many(driver, records.accounts)
            sql.insert_postings.many(driver, records.postings)
            sql.upsert_entries.many(driver, records.entries)
            sql.upsert_keys.many(driver, records.keys)
            sql.delete_keys.many(driver, [{"id": key_id} for key_id in records.removed_keys])
            sql.upsert_quotas.many(driver, records.quotas)
            sql.delete_quotas.many(driver, [{"id": account_id} for account_id in records.removed_quotas])

    def _probe(self) -> None:
        with self._writing() as connection:
            connection.execute(sa.update(META).where(GENERATION).values(value=META.c.value))

    def _load(self, keep_finished: int, keep_finished_inference: int, keep_reservations: int) -> Live:
        live = Live()
        with self._writing() as connection:
            live.reservations.extend(_reservations(connection, keep_reservations))
            for row in connection.execute(sa.select(NODES.c.id, NODES.c.body).order_by(NODES.c.joined_at, NODES.c.id)):
                live.nodes.append(decode_row(Node, row.id, row.body))
            for row in connection.execute(sa.select(MODELS.c.id, MODELS.c.body).order_by(MODELS.c.id)):
                live.models.append(decode_row(Model, row.id, row.body))
            for row in connection.execute(sa.select(QUOTAS.c.id, QUOTAS.c.body).order_by(QUOTAS.c.id)):
                live.quotas.append(decode_row(AccountQuota, row.id, row.body))
            unfinished = (
                sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(sa.text("finished_at IS NULL")).order_by("id")
            )
            for row in connection.execute(unfinished):
                live.workloads.append(decode_row(Workload, row.id, row.body))
            left_out: list[datetime] = []
            for kind, keep in ((NOT_INFERENCE, keep_finished), (INFERENCE, keep_finished_inference)):
                finished = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(kind, WORKLOADS.c.finished_at.is_not(None))
                rows = connection.execute(finished.order_by(*NEWEST_FIRST).limit(keep + 1)).all()
                newest = [decode_row(Workload, row.id, row.body) for row in rows]
                live.workloads.extend(newest[:keep])
                left_out.extend(workload.spec.created_at for workload in newest[keep:])
            ledger = load_ledger(connection, requests_kept=REQUESTS_KEPT)
            live.keys.extend(load_keys(connection))
            live.revoked.extend(load_revoked(connection, REVOKED_KEPT))
        memory = (self._generation - 1) * _MEMORIES + self._memories
        self._memories += 1
        return replace(live, memory=memory, left_out_until=max(left_out, default=None), ledger=ledger)

    def _read(self, read: Callable[..., _T], *args: Any) -> _T:
        with self._engine.begin() as connection:
            return read(connection, *args)

    def _write(self, work: Callable[[sa.Connection], _T]) -> _T:
        with self._writing() as connection:
            return work(connection)

    def _one(self, kind: type[_T], table: sa.Table, identity: str) -> _T | None:
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(table.c.id, table.c.body).where(table.c.id == identity)).first()
        return None if row is None else decode_row(kind, row.id, row.body)

    def _earlier(self, ids: AbstractSet[WorkloadId], keys: Mapping[AccountId, AbstractSet[str]]) -> list[Workload]:
        by_id, by_key = self._sql.by_id, self._sql.by_key
        found: dict[WorkloadId, Workload] = {}
        with self._engine.begin() as connection:
            results = [by_id.rows(connection, some) for some in _portions(ids)]
            for account, requests in keys.items():
                results += [by_key.rows(connection, some, account) for some in _portions(requests)]
            for row in chain.from_iterable(results):
                found[row.id] = decode_row(Workload, row.id, row.body)
        return list(found.values())

    def _events(self, after: int, limit: int) -> list[tuple[int, Event]]:
        told_by_row = sa.and_(EVENTS.c.body == "", WORKLOADS.c.id == EVENTS.c.subject)
        newer = (
            sa.select(EVENTS.c.seq, EVENTS.c.kind, EVENTS.c.body, WORKLOADS.c.body.label("workload_body"))
            .select_from(EVENTS.outerjoin(WORKLOADS, told_by_row))
            .where(EVENTS.c.seq > after)
            .where(sa.or_(EVENTS.c.body != "", WORKLOADS.c.body.is_not(None)))  # else its row was kept long enough
        )
        with self._engine.begin() as connection:
            rows = connection.execute(newer.order_by(EVENTS.c.seq).limit(limit)).all()
        return [(row.seq, decode_event(row.kind, row.body, row.workload_body)) for row in rows]


def _reservations(connection: sa.Connection, keep: int) -> Iterator[Reservation]:
    """Yields every active reservation, and the newest of those that ended."""
    rows = sa.select(RESERVATIONS.c.id, RESERVATIONS.c.body)
    newest_first = (RESERVATIONS.c.created_at.desc(), RESERVATIONS.c.id.desc())
    ended = rows.where(sa.text("ended_at IS NOT NULL")).order_by(*newest_first).limit(keep)
    for wanted in (rows.where(sa.text("ended_at IS NULL")), ended):
        for row in connection.execute(wanted):
            yield decode_row(Reservation, row.id, row.body)


def _portions(values: AbstractSet[_S]) -> Iterator[list[_S]]:
    """Yields values in lists of what a statement takes."""
    left = sorted(values)
    for start in range(0, len(left), _IN_LIMIT):
        yield left[start : start + _IN_LIMIT]
