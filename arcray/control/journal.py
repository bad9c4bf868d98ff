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
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from arcray.control import database
from arcray.control.rows import Row, decode_event, decode_row
from arcray.control.schema import EVENTS, GENERATION, META, MODELS, NODES, QUOTAS, WORKLOADS
from arcray.core.errors import UnavailableError
from arcray.core.events import Event
from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.queries import ListWorkloads
from arcray.core.quota import AccountQuota
from arcray.core.workload import PayloadKind, Workload

__all__ = ["FencedError", "Journal", "Live", "Records"]

_T = TypeVar("_T")
_NOT_INFERENCE: Final = sa.text("kind <> 'inference'")  # spelled as in the partial index, or it would not be used
_INFERENCE: Final = sa.text("kind = 'inference'")
_DEAD: Final = sa.text("dead = 1")
_NEWEST_FIRST: Final = (WORKLOADS.c.created_at.desc(), WORKLOADS.c.id.desc())


class FencedError(UnavailableError):
    """Another scheduler has taken over this database; this one writes nothing more and must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What one transaction writes.

    Args:
        events: in order.
        nodes, workloads, models: current rows; one per id.
        removed_models: ids of rows to delete.
        quotas, removed_quotas: the same for quotas of accounts.
    """

    events: Sequence[Row] = ()
    nodes: Sequence[Row] = ()
    workloads: Sequence[Row] = ()
    models: Sequence[Row] = ()
    removed_models: Sequence[ModelId] = ()
    quotas: Sequence[Row] = ()
    removed_quotas: Sequence[AccountId] = ()


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
    quotas: list[AccountQuota] = field(default_factory=list)
    left_out_until: datetime | None = None


class Journal:
    """One database.

    Args:
        url: SQLAlchemy URL, ``sqlite:///path`` or ``postgresql://…``.
        busy_timeout_s: longest wait for someone else's lock on a SQLite file.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        self._engine = database.engine(url, busy_timeout_s=busy_timeout_s)
        self._writes = ThreadPoolExecutor(1, "arcray-journal")
        # A database in memory is one connection, so one thread.
        self._in_memory = database.in_memory(url)
        self._reads = self._writes if self._in_memory else ThreadPoolExecutor(1, "arcray-history")
        self._writer: sa.Connection | None = None
        self._generation = 0
        self._sql = database.Statements(self._engine.dialect)

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
            UnavailableError: it could not be written; whether it was is known only from the rows.
        """
        await self._in(self._writes, self._append, records)

    async def probe(self) -> None:
        """Writes and commits, changing nothing.

        Raises:
            FencedError, UnavailableError: as ``append``.
        """
        await self._in(self._writes, self._probe)

    async def load(self, *, keep_finished: int, keep_finished_inference: int) -> Live:
        """Returns what a scheduler goes on from, after every write begun before.

        Raises:
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

    async def workloads(self, query: ListWorkloads, *, limit: int, offset: int) -> tuple[list[Workload], int]:
        """Returns a page of what the query's filters show, newest first, and the number of all."""
        return await self._in(self._reads, self._page, query, limit, offset)

    async def events(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Returns events with their sequence numbers, in order, beginning after one of those."""
        return await self._in(self._reads, self._events, after, limit)

    # -- in the threads ------------------------------------------------------------------------------------------

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(thread, self._mapped, work, args)

    def _mapped(self, work: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        try:
            return work(*args)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise UnavailableError(f"the database failed: {cause}") from error

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One transaction of the writing thread. After a failure the connection is dropped: it may be half dead."""
        try:
            if self._writer is None:
                self._writer = database.writer(self._engine)
            with self._writer.begin():
                yield self._writer
        except SQLAlchemyError:
            if self._writer is not None and not self._in_memory:
                self._writer.invalidate()
                self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        with self._writing() as connection:
            database.migrate(connection)
        with self._writing() as connection:
            grown = sa.update(META).where(GENERATION).values(value=META.c.value + 1).returning(META.c.value)
            self._generation = connection.execute(grown).scalar_one()

    def _append(self, records: Records) -> None:
        with self._writing() as connection:
            self._check_fence(connection)
            self._sql.insert_events.many(connection, records.events)
            self._sql.upsert_nodes.many(connection, records.nodes)
            self._sql.upsert_workloads.many(connection, records.workloads)
            self._sql.upsert_models.many(connection, records.models)
            if records.removed_models:
                connection.execute(sa.delete(MODELS).where(MODELS.c.id.in_(records.removed_models)))
            self._sql.upsert_quotas.many(connection, records.quotas)
            if records.removed_quotas:
                connection.execute(sa.delete(QUOTAS).where(QUOTAS.c.id.in_(records.removed_quotas)))

    def _probe(self) -> None:
        with self._writing() as connection:
            self._check_fence(connection)
            connection.execute(sa.update(META).where(GENERATION).values(value=META.c.value))

    def _check_fence(self, connection: sa.Connection) -> None:
        newest = connection.exec_driver_sql(self._sql.generation).scalar_one()
        if newest != self._generation:
            raise FencedError

    def _load(self, keep_finished: int, keep_finished_inference: int) -> Live:
        live = Live()
        with self._writing() as connection:
            for row in connection.execute(sa.select(NODES.c.id, NODES.c.body).order_by(NODES.c.joined_at, NODES.c.id)):
                live.nodes.append(decode_row(Node, row.id, row.body))
            for row in connection.execute(sa.select(MODELS.c.id, MODELS.c.body).order_by(MODELS.c.id)):
                live.models.append(decode_row(Model, row.id, row.body))
            for row in connection.execute(sa.select(QUOTAS.c.id, QUOTAS.c.body).order_by(QUOTAS.c.id)):
                live.quotas.append(decode_row(AccountQuota, row.id, row.body))
            unfinished = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(sa.text("finished_at IS NULL"))
            for row in connection.execute(unfinished):
                live.workloads.append(decode_row(Workload, row.id, row.body))
            left_out: list[datetime] = []
            for kind, keep in ((_NOT_INFERENCE, keep_finished), (_INFERENCE, keep_finished_inference)):
                finished = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(kind, WORKLOADS.c.finished_at.is_not(None))
                rows = connection.execute(finished.order_by(*_NEWEST_FIRST).limit(keep + 1)).all()
                newest = [decode_row(Workload, row.id, row.body) for row in rows]
                live.workloads.extend(newest[:keep])
                left_out.extend(workload.spec.created_at for workload in newest[keep:])
        return replace(live, left_out_until=max(left_out, default=None))

    def _one(self, condition: sa.ColumnElement[bool]) -> Workload | None:
        with self._engine.begin() as connection:
            row = connection.execute(sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(condition).limit(1)).first()
        return None if row is None else decode_row(Workload, row.id, row.body)

    def _page(self, query: ListWorkloads, limit: int, offset: int) -> tuple[list[Workload], int]:
        shown = _filters(query)
        page = sa.select(WORKLOADS.c.id, WORKLOADS.c.body).where(*shown).order_by(*_NEWEST_FIRST)
        with self._engine.begin() as connection:
            rows = connection.execute(page.limit(limit).offset(offset)).all()
            total = connection.execute(sa.select(sa.func.count()).select_from(WORKLOADS).where(*shown)).scalar_one()
        return [decode_row(Workload, row.id, row.body) for row in rows], total

    def _events(self, after: int, limit: int) -> list[tuple[int, Event]]:
        newer = sa.select(EVENTS.c.seq, EVENTS.c.kind, EVENTS.c.body).where(EVENTS.c.seq > after)
        with self._engine.begin() as connection:
            rows = connection.execute(newer.order_by(EVENTS.c.seq).limit(limit)).all()
        return [(row.seq, decode_event(row.kind, row.body)) for row in rows]


def _filters(query: ListWorkloads) -> list[sa.ColumnElement[bool] | sa.TextClause]:
    shown: list[sa.ColumnElement[bool] | sa.TextClause] = []
    if PayloadKind.INFERENCE not in query.kinds:
        shown.append(_NOT_INFERENCE)
    if len(query.kinds) == 1 and PayloadKind.INFERENCE in query.kinds:
        shown.append(_INFERENCE)
    elif query.kinds:
        shown.append(WORKLOADS.c.kind.in_(sorted(query.kinds)))
    if query.phases:
        shown.append(WORKLOADS.c.phase.in_(sorted(query.phases)))
    if query.dead:
        shown.append(_DEAD)
    if query.account is not None:
        shown.append(WORKLOADS.c.account == query.account)
    if query.node_id is not None:
        shown.append(WORKLOADS.c.node_id == query.node_id)
    return shown
