"""Alembic migrations of the journal, run in process when it opens.

There is a way up only. A database that a newer version has written is refused by name, because what an older one would
do to rows that it cannot read is not known; the way back is a backup from before.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Final, NoReturn

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from arcray.core.errors import UnavailableError

__all__ = ["migrate", "no_way_back", "revisions"]

_MIGRATING: Final = Lock()  # alembic keeps its context in module globals; two planes of one test process would mix
_ONE_AT_A_TIME: Final = sa.text("SELECT pg_advisory_xact_lock(4711815)")  # any number, the same in every version


def migrate(connection: sa.Connection, to: str = "head") -> None:
    """Brings the tables to a revision, within the caller's transaction.

    Raises:
        UnavailableError: the database was written by a newer version.
    """
    config = _config()
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        connection.execute(_ONE_AT_A_TIME)  # SQLite's transaction has the write lock already
        connection.execute(sa.text("SET LOCAL statement_timeout = 0"))  # an index over years of rows takes its time
    known = revisions()
    for found in MigrationContext.configure(connection).get_current_heads():
        if found not in known:
            raise UnavailableError(
                f"the database is at revision {found} and this version of arcray knows revisions up to {known[-1]}: "
                "a newer version has written it; run that one, or restore a backup from before the upgrade"
            )
    with _MIGRATING:
        command.upgrade(config, to)


def revisions() -> list[str]:
    """Returns every revision that this version knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def no_way_back(revision: str) -> NoReturn:
    """Refuses a downgrade; the ``downgrade`` of every revision.

    Raises:
        UnavailableError: always.
    """
    raise UnavailableError(f"revision {revision} is not undone; restore a backup from before the upgrade")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
