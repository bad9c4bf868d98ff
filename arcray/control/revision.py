"""Whether a database is of this version, found out without Alembic.

Alembic takes 0.2 s of processor to import, a tenth of what a scheduler that was killed may take to serve again, and at
nearly every start it would find nothing to do.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

import sqlalchemy as sa

__all__ = ["TABLE", "is_newest", "newest"]

TABLE: Final = "alembic_version"
"""Table that has the revision."""


def is_newest(connection: sa.Connection) -> bool:
    """Returns whether every migration was run, and none that this version does not know."""
    if not sa.inspect(connection).has_table(TABLE):
        return False
    return list(connection.exec_driver_sql(f"SELECT version_num FROM {TABLE}").scalars()) == [newest()]  # noqa: S608 - a constant


@cache
def newest() -> str:
    """Returns the newest revision; the files of revisions begin with ``r`` and their number."""
    # By folder: importing the package of the migrations would import Alembic.
    files = (resources.files("arcray.control") / "migrations" / "versions").iterdir()
    return max(file.name[1:].partition("_")[0] for file in files if file.name.startswith("r"))
