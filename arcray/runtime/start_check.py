"""Refuses settings that cannot work here, before anything is started.

What their text tells is checked when they are read (``config``); here is what takes a look at the machine: which
protocols and stores are installed, what lies where the database is to be. Only what no patience mends is refused: a
disk that is full, a file that is locked and a server that is away are waited for by the scheduler.
"""

from __future__ import annotations

import os
from pathlib import Path

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.sqlite_file import check_file
from arcray.core.errors import InvalidArgumentError
from arcray.wire.facade_names import check_names

__all__ = ["check_start"]


def check_start(settings: Settings) -> None:
    """Makes sure that nothing stands in the way of a start with these settings; makes and changes nothing.

    Raises:
        InvalidArgumentError: names the setting of a protocol or a store that does not exist, or of what is in the way.
    """
    check_names(settings.facades)
    _check_directory(settings.state_dir, "state_dir")
    place = settings.blob_place
    if isinstance(place, Path):
        _check_directory(place, "blobs.url")
    FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes)
    check_file(settings.sql_url)


def _check_directory(path: Path, field: str) -> None:
    """Makes sure that a directory can be written, or made."""
    try:
        found = next(place for place in (path, *path.parents) if place.exists())
        usable = found.is_dir()
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {error.strerror}", field=field) from error
    if not usable:
        raise InvalidArgumentError(f"{found} is no directory", field=field)
    if not os.access(found, os.W_OK | os.X_OK):
        raise InvalidArgumentError(f"{found} may not be written by this user", field=field)
