"""A PostgreSQL server of the tests' own: a private cluster in a temporary folder, on a unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

__all__ = ["PostgresServer", "server_programs"]

_STANDARD_PLACES = "/usr/lib/postgresql"
_START_TIMEOUT_S = 60

# Waits until whoever holds the other end of its input lets go or dies, however that is, and then leaves nothing behind.
# The server itself cannot be bound to its parent: it daemonises, and tests start it again from threads that end.
_TIDY_UP = 'cat; "$0" --pgdata data --mode immediate --wait stop; cd /; rm -rf -- "$1"'


def server_programs() -> Path | None:
    """Returns the directory of ``initdb`` and ``pg_ctl``, of the newest version installed; None when there is none."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path(_STANDARD_PLACES).glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresServer:
    """One server. It refuses to run as root, so there it runs as the user of its Debian package.

    It listens on a socket in its own folder only. Nothing is synced: what it stores need not outlive the machine.
    It outlives no test run, not even one that is killed.

    Attributes:
        tidying: the process that ends the server and removes its folder when this process has let go or died.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        # Not below pytest's folders, which nobody but their owner may pass through. Short: a socket's path is limited.
        self._folder = Path(tempfile.mkdtemp(prefix="pg.", dir="/tmp"))
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._numbers = count(1)
        self._running = False
        self.tidying = subprocess.Popen(
            ["/bin/sh", "-c", _TIDY_UP, programs / "pg_ctl", self._folder], cwd=self._folder, user=self._user,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends a whole group of processes, as Ctrl-C does, is not for it
        )  # fmt: skip
        self._run("initdb", "--pgdata", "data", "--encoding", "UTF8", "--locale", "C", "--auth", "trust",
                  "--username", "arcray", "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Starts it, unless it runs, and waits until it answers."""
        if self._running:
            return
        options = f"-c listen_addresses= -c unix_socket_directories={self._folder} -c fsync=off -c max_connections=50"
        self._run(
            "pg_ctl", "--pgdata", "data", "--log", "log", "--wait", "--timeout", str(_START_TIMEOUT_S), "--options",
            options, "start",
        )  # fmt: skip
        self._running = True

    def stop(self, mode: str = "fast") -> None:
        """Stops it: ``fast`` ends its connections, ``immediate`` is a crash."""
        self._run("pg_ctl", "--pgdata", "data", "--mode", mode, "--wait", "stop")
        self._running = False

    def remove(self) -> None:
        """Stops it and removes all that it stored."""
        self.tidying.communicate(timeout=_START_TIMEOUT_S)
        self._running = False

    def new_database(self) -> str:
        """Returns the SQLAlchemy URL of an empty database.

        It is a schema of its own: a whole database would be 7 MB of files for each test.
        """
        schema = f"t{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {schema}")
        return self.url(schema=schema)

    def url(self, database: str = "postgres", schema: str = "public") -> str:
        """Returns the SQLAlchemy URL of a schema."""
        return f"postgresql://arcray@/{database}?host={self._folder}&options=-csearch_path%3D{schema}"

    def connect(self, url: str | None = None) -> psycopg.Connection[Any]:
        """Returns a connection past the control plane, in autocommit."""
        query = sa.make_url(url or self.url()).query
        return psycopg.connect(
            host=str(self._folder), user="arcray", dbname="postgres", autocommit=True, options=str(query["options"])
        )

    def execute(self, statement: str, url: str | None = None) -> list[Any]:
        """Runs one statement and returns its rows."""
        with self.connect(url) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def terminate(self) -> int:
        """Ends every connection of a control plane from the server's side; returns how many there were."""
        ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'arcray'"
        return len(self.execute(ours))

    def _run(self, program: str, *arguments: str) -> None:
        log = self._folder / "output"
        with log.open("wb") as output:  # a pipe would be kept open by the server that pg_ctl starts
            done = subprocess.run(
                [self._programs / program, *arguments], cwd=self._folder, user=self._user, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, check=False, timeout=_START_TIMEOUT_S + 10,
            )  # fmt: skip
        assert done.returncode == 0, f"{program} failed: {log.read_text()}"
