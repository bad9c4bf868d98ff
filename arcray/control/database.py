"""Engines and connections: everything that differs between databases, and how long each may take.

PostgreSQL is reached by psycopg: it is the driver that PostgreSQL's own people maintain, works in threads, pipelines
many rows in one round trip and brings libpq along (``psycopg[binary]``). It is LGPL, used unchanged as a library.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from arcray.config import DatabaseSettings
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.state_directory import private

__all__ = ["SqliteFile", "check", "check_file", "engine", "in_memory", "is_held", "said", "wait_for_locks", "writer"]

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
                _make_directory(Path(parsed.database).parent)
                if "uri" not in parsed.query:  # else it is no path
                    sa.event.listen(created, "do_connect", partial(_make_private, Path(parsed.database)))
            sa.event.listen(created, "connect", partial(_prepare_sqlite, settings))
            sa.event.listen(created, "begin", _begin_sqlite)
        case "postgresql":
            sa.event.listen(created, "connect", partial(_prepare_postgresql, settings))
        case other:
            raise InvalidArgumentError(f"{other} is not supported", field="database_url")
    return created


def in_memory(url: str | sa.URL) -> bool:
    """Returns whether the URL is a SQLite database without a file."""
    parsed = sa.make_url(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


def writer(source: sa.Engine) -> sa.Connection:
    """Returns a connection whose transactions take the write lock when they begin."""
    return source.connect().execution_options(arcray_writes=True)


def wait_for_locks(connection: sa.Connection, longest_s: float) -> None:
    """Sets how long a connection to a SQLite file waits for someone else's lock on it."""
    raw: Any = connection.connection.dbapi_connection
    raw.execute(f"PRAGMA busy_timeout={int(longest_s * 1000)}")


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


def check_file(url: str | sa.URL) -> None:
    """Makes sure that what lies where a SQLite database is to be is one, or nothing; opens it without a lock.

    Raises:
        InvalidArgumentError: it is something else, or not ours to write.
    """
    path = _path(sa.make_url(url))
    if path is None:
        return
    try:
        if not path.exists():
            if not _first_that_exists(path).is_dir():
                _refuse(path, "its directory is a file")
            return
        if not path.is_file():
            _refuse(path, "is no file")
        if not os.access(path, os.R_OK | os.W_OK):
            _refuse(path, "may not be read and written by this user")
        # Immutable: neither locked nor recovered, so that nothing of this depends on who else has it open.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except OSError as error:
        _refuse(path, str(error.strerror), error)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            _refuse(path, str(error), error)


def _first_that_exists(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _path(url: sa.URL) -> Path | None:
    """Returns the file of a SQLite database; None if it is in memory, named by a URI of SQLite, or on a server."""
    if url.get_backend_name() != "sqlite" or in_memory(url) or "uri" in url.query or not url.database:
        return None
    return Path(url.database)


def _refuse(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidArgumentError(f"{path}: {reason}", field="database_url") from cause


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


class SqliteFile:
    """The file of a SQLite database, watched, because SQLite goes on writing to one that has been removed or replaced.

    What it acknowledged then would be gone with the last process that has the file open.
    """

    def __init__(self, url: str | sa.URL) -> None:
        parsed = sa.make_url(url)
        named = parsed.get_backend_name() == "sqlite" and not in_memory(url)
        self._path = Path(parsed.database) if named and parsed.database else None
        self._identity: tuple[int, int] | None = None

    def opened(self) -> None:
        """Takes the file that is there now for the right one."""
        self._identity = self._found()

    def check(self) -> None:
        """Makes sure that it still is.

        Raises:
            UnavailableError: it has gone, or another is in its place.
        """
        if self._path is None or self._identity is None or self._found() == self._identity:
            return
        if self._path.exists():
            raise UnavailableError(
                f"another file has taken the place of the database {self._path}; put the first back, or restart"
            )
        raise UnavailableError(f"the database {self._path} has been removed; put it back")

    def _found(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"cannot make the directory of the database: {error}") from error


def _make_private(path: Path, *_connecting: object) -> None:
    # SQLite would make it readable by everyone, as the umask is; what it puts beside it gets the same mode as the file.
    # Only if it is absent: whoever closes a file of this process gives up SQLite's locks on it.
    with suppress(OSError):  # SQLite says better what is wrong
        os.close(private(str(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY))


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
