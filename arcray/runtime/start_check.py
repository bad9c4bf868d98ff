"""Refuses settings that cannot work here, before anything is started.

What their text tells is checked when they are read (``config``); here is what takes a look at the machine: which
protocols and stores are installed, what lies where the database is to be. Only what no patience mends is refused: a
disk that is full, a file that is locked and a server that is away are waited for by the scheduler.
"""

from __future__ import annotations

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.sqlite_file import check_file
from arcray.wire.facade_names import check_names

__all__ = ["check_start"]


def check_start(settings: Settings) -> None:
    """Makes sure that nothing stands in the way of a start with these settings; makes and changes nothing.

    Raises:
        InvalidArgumentError: names the setting of a protocol or a store that does not exist, or of a file in the way.
    """
    check_names(settings.facades)
    FsspecBlobs(settings.blob_place, max_blob_bytes=settings.blobs.max_blob_bytes)
    check_file(settings.sql_url)
