"""The file of a SQLite database: what may lie where it is to be, and whether it is still the one that was opened."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import sqlalchemy as sa

from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.state_directory import private

__all__ = ["SqliteFile", "check_file", "in_memory", "make_directory", "make_private"]


def in_memory(url: str | sa.URL) -> bool:
    """Returns whether the URL is a SQLite database without a file."""
    parsed = sa.make_url(url)
    return parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:")


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


def make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"cannot make the directory of the database: {error}") from error


def make_private(path: Path, *_connecting: object) -> None:
    # SQLite would make it readable by everyone, as the umask is; what it puts beside it gets the same mode as the file.
    # Only if it is absent: whoever closes a file of this process gives up SQLite's locks on it.
    with suppress(OSError):  # SQLite says better what is wrong
        os.close(private(str(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
