"""Engines, connections and migrations: everything that differs between databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from arcray.control.schema import EVENTS, GENERATION, META, MODELS, NODES, QUOTAS, WORKLOADS
from arcray.core.errors import InvalidArgumentError, UnavailableError

__all__ = ["Statements", "engine", "in_memory", "migrate", "writer"]

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATING: Final = Lock()  # alembic keeps its context in module globals; two planes of one test process would mix


class _Write:
    """One statement, compiled once.

    SQLAlchemy's own execution costs 80 us a statement and 4 us a row here, more than SQLite needs to run it
    (measured); the text is still its compiler's, so both databases are served.
    """

    def __init__(self, statement: sa.Insert, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order = itemgetter(*compiled.positiontup) if compiled.positiontup else None

    def many(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs it for every row; for none it does nothing."""
        if rows:
            order = self._order
            connection.exec_driver_sql(self._text, list(map(order, rows)) if order else list(rows))


class Statements:
    """The statements of the hot path, for one database."""

    def __init__(self, dialect: sa.Dialect) -> None:
        written = [column.name for column in EVENTS.c if column is not EVENTS.c.seq]
        self.insert_events = _Write(
            sa.insert(EVENTS).inline().values({name: sa.bindparam(name) for name in written}), dialect
        )
        self.upsert_nodes = _Write(_upsert(NODES, dialect), dialect)
        self.upsert_workloads = _Write(_upsert(WORKLOADS, dialect), dialect)
        self.upsert_models = _Write(_upsert(MODELS, dialect), dialect)
        self.upsert_quotas = _Write(_upsert(QUOTAS, dialect), dialect)
        # FOR UPDATE makes a takeover wait for this transaction (PostgreSQL); SQLite has one writer anyhow.
        newest = sa.select(META.c.value).where(GENERATION).with_for_update()
        self.generation = str(newest.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def engine(url: str, *, busy_timeout_s: float = 5.0) -> sa.Engine:
    """Returns an engine that connects to nothing yet.

    Args:
        busy_timeout_s: longest wait for someone else's lock on a SQLite file.

    Raises:
        InvalidArgumentError: the URL is malformed, of an unknown database, or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"hide_parameters": True}  # payloads stay out of error messages and logs
        if in_memory(url):
            options["poolclass"] = StaticPool
        created = sa.create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidArgumentError(f"cannot use this database: {error}", field="database_url") from error
    if created.dialect.name == "sqlite":
        if parsed.database and not in_memory(url):
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        sa.event.listen(created, "connect", partial(_prepare_sqlite, busy_timeout_s))
        sa.event.listen(created, "begin", _begin_sqlite)
    elif created.dialect.name != "postgresql":
        raise InvalidArgumentError(f"{created.dialect.name} is not supported", field="database_url")
    return created


def in_memory(url: str) -> bool:
    """Returns whether the URL is a SQLite database without a file."""
    parsed = sa.make_url(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


def writer(source: sa.Engine) -> sa.Connection:
    """Returns a connection whose transactions take the write lock when they begin."""
    return source.connect().execution_options(arcray_writes=True)


def migrate(connection: sa.Connection, revision: str = "head") -> None:
    """Brings the tables to the newest revision, within the caller's transaction.

    Args:
        revision: an earlier one to stop at, for tests of upgrades.

    Raises:
        UnavailableError: the database was written by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        with _MIGRATING:
            command.upgrade(config, revision)
    except CommandError as error:
        raise UnavailableError(f"the database does not fit this version: {error}") from error


def _prepare_sqlite(busy_timeout_s: float, connection: Any, _record: object) -> None:
    # The driver's own transactions begin too late for reads and not at all for DDL; ours begin where we say.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE: a writer that upgraded from a read could be refused at once whatever the busy timeout.
    writes = connection.get_execution_options().get("arcray_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upsert(table: sa.Table, dialect: sa.Dialect) -> sa.Insert:
    insert = (postgresql if dialect.name == "postgresql" else sqlite).insert(table)
    values: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in table.c}
    changed = {column.name: insert.excluded[column.name] for column in table.c if not column.primary_key}
    statement: sa.Insert = insert.values(values).on_conflict_do_update(index_elements=[table.c.id], set_=changed)
    return statement
