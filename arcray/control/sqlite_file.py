"""The file of a SQLite database: what may lie where it is to be, and whether it is still the one that was opened."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote

import sqlalchemy as sa

from arcray.control import revision
from arcray.control.schema import META
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.state_directory import private

__all__ = ["LogGoneError", "SqliteFile", "check_file", "in_memory", "make_directory"]

_OURS: Final = frozenset({META.name, revision.TABLE})  # of every revision
_NAMED: Final = 5  # tables, enough to know whose they are
_LOG: Final = "-wal"  # SQLite's name for it
_Identity: TypeAlias = tuple[int, int]


def in_memory(url: str | sa.URL) -> bool:
    """Returns whether the URL is a SQLite database without a file."""
    parsed = sa.make_url(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


def check_file(url: str | sa.URL) -> None:
    """Makes sure that what lies where a SQLite database is to be is one, or nothing; opens it without a lock.

    Raises:
        InvalidArgumentError: it is something else or of someone else, not ours to write, or missing beside its log.
    """
    path = _path(sa.make_url(url))
    if path is None:
        return
    try:
        _check_log(path)
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
            if not _holds_anything(f"{path}{_LOG}"):  # else the tables may be there; the first connection looks again
                _check_owner(path, connection)
    except OSError as error:
        _refuse(path, str(error.strerror), error)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            _refuse(path, str(error), error)


def _check_log(path: Path) -> None:
    """Refuses to begin a database beside the log of another, which SQLite would delete with all that is in it."""
    log = f"{path}{_LOG}"
    if _identity(log) is not None and not _holds_anything(str(path)):
        _refuse(path, f"is missing, or empty, beside its write-ahead log {log}; put it back, or move the log away")


def _check_owner(path: Path, connection: Any) -> None:
    """Refuses a database that has tables and was not made by us."""
    # Not by what the migrations say: they run after the first connection has made changes of its own.
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if found and not found >= _OURS:
        some = ", ".join(sorted(found)[:_NAMED])
        _refuse(path, f"is a database of something else, with the tables {some}; name one that is not there yet")


def _first_that_exists(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _path(url: sa.URL) -> Path | None:
    """Returns the file of a SQLite database; None if it is in memory, named by a URI of SQLite, or on a server."""
    if url.get_backend_name() != "sqlite" or in_memory(url) or "uri" in url.query or not url.database:
        return None
    return Path(url.database)


def _refuse(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidArgumentError(f"{path}: {reason}", field="database_url") from cause


class LogGoneError(UnavailableError):
    """The write-ahead log of the database has been removed or replaced; what is in it must be saved first."""


class SqliteFile:
    """The file of a SQLite database, watched, because SQLite goes on with one that has been removed or replaced.

    What it acknowledged then would be gone with the last process that has the file open. And whoever opens anew would
    make an empty file, beside which SQLite deletes the log: all that was acknowledged since it was last emptied. So the
    file is made by the first connection alone, and every connection that is opened or taken from a pool is of the file
    that was opened first. The log is watched too while the connection that writes is open: no other process would find
    what is committed to one that has been removed.

    Args:
        url: of any database; nothing is watched unless it is a SQLite file by its path.
    """

    def __init__(self, url: str | sa.URL) -> None:
        path = _path(sa.make_url(url))
        self._path = None if path is None else str(path.absolute())
        self._log = f"{self._path}{_LOG}"
        self._identity: _Identity | None = None
        self._log_identity: _Identity | None = None

    def watch(self, engine: sa.Engine) -> None:
        """Has every connection of an engine be one to this file, or none."""
        if self._path is not None:
            sa.event.listen(engine, "do_connect", self._connect)
            sa.event.listen(engine, "checkout", lambda *_connection: self.check())

    def opened(self) -> None:
        """Takes the file that is there now for the right one."""
        self._identity = None if self._path is None else _identity(self._path)

    def log_opened(self) -> None:
        """Takes the log that is there now for the right one, until its user has closed it: SQLite deletes it then."""
        self._log_identity = None if self._path is None else _identity(self._log)

    def log_closed(self) -> None:
        """Takes any log for the right one."""
        self._log_identity = None

    def check(self) -> None:
        """Makes sure that they still are.

        Raises:
            LogGoneError: the file is there, its log is not, or another is in its place.
            UnavailableError: it has gone, or another is in its place.
        """
        if self._path is None or self._identity is None:
            return
        found = _identity(self._path)
        if found is None:
            raise UnavailableError(f"the database {self._path} has been removed; put it back")
        if found != self._identity:
            raise UnavailableError(
                f"another file has taken the place of the database {self._path}; put the first back, or restart"
            )
        if self._log_identity is not None and _identity(self._log) != self._log_identity:
            raise LogGoneError

    def _connect(self, dialect: sa.Dialect, _record: object, _arguments: object, options: dict[str, Any]) -> Any:
        path = str(self._path)
        if self._identity is None:
            _check_log(Path(path))
            _make_private(path)
        self.check()
        # mode=rw makes no file where none is. Nothing is read before the second look: what SQLite does with a log that
        # lies beside the wrong file cannot be undone.
        connection = dialect.connect(f"file://{quote(os.fsencode(path))}?mode=rw", uri=True, **options)
        try:
            if self._identity is None:
                _check_owner(Path(path), connection)
            self.check()
        except BaseException:
            connection.close()
            raise
        return connection


def _identity(path: str) -> _Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - each commit does it, and a Path costs a quarter more
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds_anything(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0  # noqa: PTH116 - as above
    except OSError:
        return False


def make_directory(path: Path) -> None:
    """Makes the directory of a database.

    Raises:
        UnavailableError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"cannot make the directory of the database: {error}") from error


def _make_private(path: str) -> None:
    # SQLite would make it readable by everyone, as the umask is; what it puts beside it gets the same mode as the file.
    # Only if it is absent: whoever closes a file of this process gives up SQLite's locks on it.
    with suppress(OSError):  # SQLite says better what is wrong
        os.close(private(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
