"""Engines and connections: everything that differs between databases, and how long each may take.

PostgreSQL is reached by psycopg: it is the driver that PostgreSQL's own people maintain, works in threads, pipelines
many rows in one round trip and brings libpq along (``psycopg[binary]``). It is LGPL, used unchanged as a library.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from arcray.config import DatabaseSettings
from arcray.control.sqlite_file import in_memory, make_directory
from arcray.core.errors import InvalidArgumentError, UnavailableError

__all__ = ["check", "empty_log", "engine", "is_held", "said", "wait_for_locks", "writer"]

# A lost network is noticed by silence: three probes, a second apart, after three seconds without a word.
_KEEPALIVES: Final = {"keepalives": 1, "keepalives_idle": 3, "keepalives_interval": 1, "keepalives_count": 3}


def engine(url: str | sa.URL, settings: DatabaseSettings) -> sa.Engine:
    """Returns an engine that connects to nothing yet.

    Raises:
        InvalidArgumentError: the URL is malformed, of an unknown database, or its driver is not installed.
        UnavailableError: the directory of a SQLite file cannot be made.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"hide_parameters": True}  # payloads stay out of error messages and logs
        if in_memory(url):
            options["poolclass"] = StaticPool
        if parsed.drivername == "postgresql+psycopg":
            options |= _postgresql_options(settings)
        created = sa.create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidArgumentError(f"cannot use this database: {error}", field="database_url") from error
    match created.dialect.name:
        case "sqlite":
            if parsed.database and not in_memory(url):
                make_directory(Path(parsed.database).parent)
            sa.event.listen(created, "connect", partial(_prepare_sqlite, settings))
            sa.event.listen(created, "begin", _begin_sqlite)
        case "postgresql":
            sa.event.listen(created, "connect", partial(_prepare_postgresql, settings))
        case other:
            raise InvalidArgumentError(f"{other} is not supported", field="database_url")
    return created


def writer(source: sa.Engine) -> sa.Connection:
    """Returns a connection whose transactions take the write lock when they begin."""
    return source.connect().execution_options(arcray_writes=True)


def wait_for_locks(connection: sa.Connection, longest_s: float) -> None:
    """Sets how long a connection to a SQLite file waits for someone else's lock on it."""
    raw: Any = connection.connection.dbapi_connection
    raw.execute(f"PRAGMA busy_timeout={int(longest_s * 1000)}")


def empty_log(connection: sa.Connection) -> None:
    """Brings all that is in the write-ahead log of a SQLite file into the file.

    Raises:
        UnavailableError: somebody reads or writes it for longer than is waited for locks, or it failed.
    """
    raw: Any = connection.connection.dbapi_connection
    try:
        held, _frames, _done = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise UnavailableError(f"the write-ahead log of the database has gone and cannot be saved: {error}") from error
    if held:
        raise UnavailableError("the write-ahead log of the database has gone and is not saved yet: it is in use")


def is_held(error: DBAPIError) -> bool:
    """Returns whether nothing was done because someone else holds a lock on the SQLite file."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY  # the rest says why


def check(connection: sa.Connection) -> None:
    """Makes sure that the database can hold our text.

    Raises:
        UnavailableError: it cannot; says how it must be made.
    """
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
        if encoding != "UTF8":
            raise UnavailableError(f"the database has the encoding {encoding}; make it with ENCODING 'UTF8'")


def said(error: SQLAlchemyError) -> str:
    """Returns what the database said of a failure, and takes everything else out of the error.

    PostgreSQL appends the row to blame to its message, and rows have payloads, which belong in no log.
    """
    cause = getattr(error, "orig", None) or error
    message = getattr(getattr(cause, "diag", None), "message_primary", None)
    if message is None:
        return str(cause).strip()
    error.args = (message, *error.args[1:])
    cause.args = (message,)
    return str(message)


def _prepare_sqlite(settings: DatabaseSettings, connection: Any, _record: object) -> None:
    # The driver's own transactions begin too late for reads and not at all for DDL; ours begin where we say.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(settings.busy_timeout_s * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE: a writer that upgraded from a read could be refused at once whatever the busy timeout.
    writes = connection.get_execution_options().get("arcray_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql_options(settings: DatabaseSettings) -> dict[str, Any]:
    return {
        # What readers get from the pool may have died with a server that was restarted since.
        "pool_pre_ping": True,
        # Whatever the server's default is: the fence is a lock, and waiting for it must show what came before.
        "isolation_level": "READ COMMITTED",
        "connect_args": {
            "application_name": "arcray",
            "client_encoding": "utf8",
            "connect_timeout": max(1, round(settings.connect_timeout_s)),
            "tcp_user_timeout": round(settings.statement_timeout_s * 1000),
            **_KEEPALIVES,
        },
    }


def _prepare_postgresql(settings: DatabaseSettings, connection: Any, _record: object) -> None:
    # Set by statements, because connection poolers refuse most parameters at the start.
    times = {
        "statement_timeout": settings.statement_timeout_s,
        "lock_timeout": settings.busy_timeout_s,
        # A scheduler whose machine has gone must not hold the fence for longer than it would have itself.
        "idle_in_transaction_session_timeout": settings.commit_timeout_s,
    }
    with connection.cursor() as cursor:
        for name, seconds in times.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, f"{round(seconds * 1000)}ms"))
        # An acknowledgement means that it is on disk, whatever the server's default is.
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
    connection.commit()
