"""Zip archives from strangers: unpacked inside one directory, within limits, or refused with the entry's name.

What entries may be called is judged in ``wire.archives``. Sizes are counted while bytes are written, because the sizes
that a zip states are the sender's words.
"""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.wire.archives import BROKEN, MAX_ENTRIES, check_directory, entry_point_among, safe_name

__all__ = ["find_entry_point", "unpack"]

_PIECE_BYTES: Final = 1 << 20


def unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    """Unpacks a zip into an existing, empty directory.

    Raises:
        InvalidArgumentError: it is no zip, is encrypted or damaged, or an entry would leave the directory.
        ResourceExhaustedError: it unpacks to more bytes or entries than allowed.
    """
    try:
        with archive.open("rb") as file, _opened(file) as bundle:
            entries = bundle.infolist()
            if len(entries) > MAX_ENTRIES:
                raise ResourceExhaustedError(f"has {len(entries)} entries, at most {MAX_ENTRIES}", field="archive")
            left = max_bytes
            for entry in entries:
                left -= _unpack_entry(bundle, entry, target, left)
    except BROKEN as error:
        raise InvalidArgumentError(f"is not a readable zip: {error}", field="archive") from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):  # an offset before the file; a name too long
            raise
        raise InvalidArgumentError(f"is not a readable zip: {error}", field="archive") from error


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    check_directory(file)
    return zipfile.ZipFile(file)


def _unpack_entry(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Writes one entry; returns its bytes."""
    path = target / safe_name(entry)
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return 0
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bundle.open(entry) as source, path.open("xb") as sink:
            while piece := source.read(_PIECE_BYTES):
                written += len(piece)
                if written > left:
                    raise ResourceExhaustedError("unpacks to more bytes than allowed", field="archive")
                sink.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidArgumentError(f"names {entry.filename!r} twice", field="archive") from error
    return written


def find_entry_point(directory: Path, asked: str) -> str:
    """Returns the file to run, relative to the directory.

    Args:
        asked: the submitter's choice; "" looks for the usual names, then takes the first ``*.py`` by name.

    Raises:
        InvalidArgumentError: what was asked for is not there or not inside, or there is no Python file.
    """
    if asked:
        path = PurePosixPath(asked)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidArgumentError(f"{asked!r} is not inside the archive", field="payload.entryPoint")
        if not (directory / path).is_file():
            raise InvalidArgumentError(f"{asked!r} is not in the archive", field="payload.entryPoint")
        return str(path)
    found = entry_point_among({path.name for path in directory.glob("*.py") if path.is_file()})
    if found is None:
        raise InvalidArgumentError(
            "the archive has no *.py at its top; name the file to run", field="payload.entryPoint"
        )
    return found
