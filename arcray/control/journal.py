"""The journal: durable events and the current rows they lead to, one transaction per batch.

What lives here: SQL and threads. What does not: what is written when (committer), what the JSON means (rows).

One thread writes on one connection, so a batch costs one hop however large it is; another reads, so that no list of a
long history delays a commit. SQLite by default (write-ahead log, synchronous FULL: a commit that returned survives a
power cut); any PostgreSQL by URL. Invariants: a batch is on disk entirely or not at all; a journal that another
scheduler has opened since writes nothing more (``FencedError``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from arcray.config import DatabaseSettings
from arcray.control import database
from arcray.control.migrations import migrate
from arcray.control.pages import INFERENCE, NEWEST_FIRST, NOT_INFERENCE, read_page
from arcray.control.rows import Row, decode_event, decode_row
from arcray.control.schema import EVENTS, GENERATION, META, MODELS, NODES, WORKLOADS
from arcray.control.statements import Statements
from arcray.core.errors import UnavailableError
from arcray.core.events import Event
from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.queries import ListWorkloads
from arcray.core.workload import Workload

__all__ = ["FencedError", "Journal", "Live", "Records"]

_T = TypeVar("_T")


class FencedError(UnavailableError):
    """Another scheduler has taken over this database; this one writes nothing more and must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What one transaction writes.

    Args:
        events: in order.
        nodes, workloads, models: current rows; one per id.
        tallies: by how much the numbers of workloads change with these rows; one per account, kind and phase.
        removed_models: ids of rows to delete.
    """

    events: Sequence[Row] = ()
    nodes: Sequence[Row] = ()
    workloads: Sequence[Row] = ()
    models: Sequence[Row] = ()
    tallies: Sequence[Row] = ()
    removed_models: Sequence[ModelId] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a scheduler goes on from.

    Args:
        workloads: all live ones and the newest finished ones.
        left_out_until: creation of the newest finished workload that is not among them, None when all are.
    """

    nodes: list[Node] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    left_out_until: datetime | None = None


class Journal:
    """One database.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://…``.
        settings: how long it may take.
    """

    def __init__(self, url: str, settings: DatabaseSettings | None = None) -> None:
        settings = settings or DatabaseSettings()
        self._engine = database.engine(url, settings)
        self._file = database.SqliteFile(url)
        self._commit_timeout_s = settings.commit_timeout_s
        self._writes = ThreadPoolExecutor(1, "arcray-journal")
        # A database in memory is one connection, so one thread.
        self._in_memory = database.in_memory(url)
        self._reads = self._writes if self._in_memory else ThreadPoolExecutor(1, "arcray-history")
        self._writer: sa.Connection | None = None
        self._generation = 0
        self._sql = Statements(self._engine.dialect)

    async def open(self) -> None:
        """Brings the tables up to date and fences earlier schedulers off.

        Raises:
            UnavailableError: the database cannot be reached, written or migrated.
        """
        await self._in(self._writes, self._open)

    async def close(self) -> None:
        """Finishes what is being written and closes."""
        await self._in(self._writes, self._disconnect)
        await self._in(self._writes, self._engine.dispose)
        self._writes.shutdown()
        self._reads.shutdown()

    async def append(self, records: Records) -> None:
        """Writes one batch.

        Raises:
            FencedError: another scheduler opened the database since.
            UnavailableError: it could not be written, or not in time; whether it was is known only from the rows.
        """
        try:
            async with asyncio.timeout(self._commit_timeout_s):
                await self._in(self._writes, self._append, records)
        except TimeoutError:
            # The thread may still write it; ``load`` reads in the same thread, after it.
            raise UnavailableError(f"the database did not commit within {self._commit_timeout_s:g} s") from None

    async def probe(self) -> None:
        """Writes and commits, changing nothing.

        Raises:
            FencedError, UnavailableError: as ``append``.
        """
        await self._in(self._writes, self._probe)

    async def load(self, *, keep_finished: int, keep_finished_inference: int) -> Live:
        """Returns what a scheduler goes on from, after every write begun before.

        Raises:
            FencedError: another scheduler opened the database since.
            InternalError: a row cannot be read; names it.
            UnavailableError: the database cannot be read.
        """
        return await self._in(self._writes, self._load, keep_finished, keep_finished_inference)

    async def workload(self, workload_id: WorkloadId) -> Workload | None:
        """Returns a workload's row."""
        return await self._in(self._reads, self._one, WORKLOADS.c.id == workload_id)

    async def request(self, account: AccountId, request_id: str) -> Workload | None:
        """Returns the workload that was submitted under an idempotency key."""
        keyed = sa.and_(
            WORKLOADS.c.account == account, WORKLOADS.c.request_id == request_id, sa.text("request_id <> ''")
        )
        return await self._in(self._reads, self._one, keyed)

    async def workloads(self, query: ListWorkloads, *, limit: int, offset: int) -> tuple[list[Workload], int | None]:
        """Returns a page of what the query's filters show, newest first, and the number of all on first pages."""
        return await self._in(self._reads, self._page, query, limit, offset)

    async def events(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Returns events with their sequence numbers, in order, beginning after one of those."""
        return await self._in(self._reads, self._events, after, limit)

    async def read(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Runs ``work`` in a transaction of the reading thread.

        Raises:
            UnavailableError: the database cannot be read.
        """
        return await self._in(self._reads, self._read, work)

    async def write(self, work: Callable[[sa.Connection], _T]) -> _T:
        """Runs ``work`` in a transaction of the writing thread, between two batches. It should be short.

        Raises:
            FencedError, UnavailableError: as ``append``.
        """
        return await self._in(self._writes, self._write, work)

    # -- in the threads ------------------------------------------------------------------------------------------

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(thread, self._mapped, work, args)

    def _mapped(self, work: Callable[..., _T], args: tuple[Any, ...]) -> _T:
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

    def _begin(self) -> sa.RootTransaction:
        """Begins a transaction behind the fence; a connection that died in idleness is replaced, once."""
        try:
            return self._begin_fenced()
        except DBAPIError as error:
            # Nothing of this transaction was sent before, so doing it again does nothing twice.
            if not error.connection_invalidated:
                raise
            self._drop()
        return self._begin_fenced()

    def _begin_fenced(self) -> sa.RootTransaction:
        self._file.check()
        connection = self._connected()
        transaction = connection.begin()
        try:
            newest = connection.exec_driver_sql(self._sql.generation).scalar_one()
            if newest != self._generation:
                raise FencedError  # noqa: TRY301 - a failure like any other, after which nothing may stay locked
        except BaseException:
            transaction.rollback()
            raise
        return transaction

    def _connected(self) -> sa.Connection:
        if self._writer is None:
            self._writer = database.writer(self._engine)
        return self._writer

    def _drop(self) -> None:
        if self._writer is not None and not self._in_memory:
            self._writer.invalidate()
            self._disconnect()

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        try:
            connection = self._connected()
            with connection.begin():
                database.check(connection)
                migrate(connection)
            with connection.begin():
                grown = sa.update(META).where(GENERATION).values(value=META.c.value + 1).returning(META.c.value)
                self._generation = connection.execute(grown).scalar_one()
        except SQLAlchemyError:
            self._drop()
            raise
        self._file.opened()

    def _append(self, records: Records) -> None:
        with self._writing() as connection:
            self._sql.insert_events.many(connection, records.events)
            self._sql.upsert_nodes.many(connection, records.nodes)
            self._sql.upsert_workloads.many(connection, records.workloads)
            self._sql.upsert_models.many(connection, records.models)
            self._sql.add_tallies.many(connection, records.tallies)
            if records.removed_models:
                connection.execute(sa.delete(MODELS).where(MODELS.c.id.in_(records.removed_models)))

    def _probe(self) -> None:
        with self._writing() as connection:
            connection.execute(sa.update(META).where(GENERATION).values(value=META.c.value))

    def _load(self, keep_finished: int, keep_finished_inference: int) -> Live:
        live = Live()
        with self._writing() as connection:
            for row in connection.execute(sa.select(NODES.c.id, NODES.c.body).order_by(NODES.c.joined_at, NODES.c.id)):
                live.nodes.append(decode_row(Node, row.id, row.body))
            for row in connection.execute(sa.select(MODELS.c.id, MODELS.c.body).order_by(MODELS.c.id)):
                live.models.append(decode_row(Model, row.id, row.body))
            unfinished = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(sa.text("finished_at IS NULL"))
            for row in connection.execute(unfinished):
                live.workloads.append(decode_row(Workload, row.id, row.body))
            left_out: list[datetime] = []
            for kind, keep in ((NOT_INFERENCE, keep_finished), (INFERENCE, keep_finished_inference)):
                finished = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(kind, WORKLOADS.c.finished_at.is_not(None))
                rows = connection.execute(finished.order_by(*NEWEST_FIRST).limit(keep + 1)).all()
                newest = [decode_row(Workload, row.id, row.body) for row in rows]
                live.workloads.extend(newest[:keep])
                left_out.extend(workload.spec.created_at for workload in newest[keep:])
        return Live(
            nodes=live.nodes, workloads=live.workloads, models=live.models, left_out_until=max(left_out, default=None)
        )

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        self._file.check()  # else a pooled connection would go on reading a file that has gone
        with self._engine.begin() as connection:
            yield connection

    def _read(self, work: Callable[[sa.Connection], _T]) -> _T:
        with self._reading() as connection:
            return work(connection)

    def _write(self, work: Callable[[sa.Connection], _T]) -> _T:
        with self._writing() as connection:
            return work(connection)

    def _one(self, condition: sa.ColumnElement[bool]) -> Workload | None:
        with self._reading() as connection:
            row = connection.execute(sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(condition).limit(1)).first()
        return None if row is None else decode_row(Workload, row.id, row.body)

    def _page(self, query: ListWorkloads, limit: int, offset: int) -> tuple[list[Workload], int | None]:
        with self._reading() as connection:
            return read_page(connection, query, limit, offset)

    def _events(self, after: int, limit: int) -> list[tuple[int, Event]]:
        newer = sa.select(EVENTS.c.seq, EVENTS.c.kind, EVENTS.c.body).where(EVENTS.c.seq > after)
        with self._reading() as connection:
            rows = connection.execute(newer.order_by(EVENTS.c.seq).limit(limit)).all()
        return [(row.seq, decode_event(row.kind, row.body)) for row in rows]
