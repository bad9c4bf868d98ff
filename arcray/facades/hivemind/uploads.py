"""What a task may be: Python source, or a zip archive with a Python file at its top. Refused before it is accepted.

The document's example is the text of a program; programs of the first implementation send archives. What begins as a
zip is one, and then has to be a sound one; everything else has to be text. What an archive says of itself is judged
here, from its directory, so that most that is wrong is told at once; that it says the truth is found by the node, which
counts what it unpacks. The bytes stay as they came.

Reading a directory of 4 MiB takes half a second, so callers hand large archives to a thread.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath
from typing import Final

from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.core.quantity import MIB
from arcray.wire.archives import BROKEN, MAX_ENTRIES, check_directory, entry_point_among, safe_name

__all__ = ["TASK_BYTES", "is_archive"]

TASK_BYTES: Final = 100 * MIB
"""The largest task; exactly as many bytes are taken."""

_FIELD: Final = "task_data"
_BEGINS: Final = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")  # an entry, an empty archive, an archive in parts
_LOCAL_BYTES: Final = 30  # header of an entry, without its name
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})


def is_archive(task_data: bytes, *, unpacked_bytes: int) -> bool:
    """Returns whether a task is a zip archive; else it is the text of one file.

    Args:
        unpacked_bytes: most that an archive may unpack to.

    Raises:
        InvalidArgumentError: it is neither, or an archive that cannot be run.
        ResourceExhaustedError: it is, or unpacks to, more than is taken.
    """
    if not task_data:
        raise InvalidArgumentError("must not be empty", field=_FIELD)
    if len(task_data) > TASK_BYTES:
        raise ResourceExhaustedError(f"has {len(task_data)} bytes, at most {TASK_BYTES} (100MB)", field=_FIELD)
    if not task_data.startswith(_BEGINS):
        _check_source(task_data)
        return False
    try:
        check_directory(io.BytesIO(task_data))
        with zipfile.ZipFile(io.BytesIO(task_data)) as bundle:
            entries = bundle.infolist()
    except (*BROKEN, OSError) as error:
        raise InvalidArgumentError(f"is not a readable zip: {error}", field=_FIELD) from error
    _check_entries(entries, task_data, unpacked_bytes)
    return True


def _check_source(task_data: bytes) -> None:
    try:
        text = task_data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("is neither a zip archive nor Python source in UTF-8", field=_FIELD) from error
    if "\0" in text:
        raise InvalidArgumentError("is neither a zip archive nor Python source: it has a NUL", field=_FIELD)


def _check_entries(entries: list[zipfile.ZipInfo], task_data: bytes, unpacked_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ResourceExhaustedError(f"has {len(entries)} entries, at most {MAX_ENTRIES}", field=_FIELD)
    seen: set[PurePosixPath] = set()
    for entry in entries:
        path = safe_name(entry)
        if path in seen and not entry.is_dir():
            raise InvalidArgumentError(f"names {entry.orig_filename!r} twice", field=_FIELD)
        seen.add(path)
        if entry.compress_type not in _METHODS:
            raise InvalidArgumentError(f"entry {entry.orig_filename!r} is compressed in no usual way", field=_FIELD)
        at, size = entry.header_offset, entry.compress_size
        if not 0 <= at <= len(task_data) - _LOCAL_BYTES - size or not task_data.startswith(b"PK\3\4", at):
            raise InvalidArgumentError(f"entry {entry.orig_filename!r} is not where it should be", field=_FIELD)
    total = sum(entry.file_size for entry in entries)
    if total > unpacked_bytes:
        raise ResourceExhaustedError(f"unpacks to {total} bytes, at most {unpacked_bytes}", field=_FIELD)
    files = {entry.filename for entry in entries if "/" not in entry.filename}
    if entry_point_among(files) is None:
        raise InvalidArgumentError("has no *.py at its top", field=_FIELD)
