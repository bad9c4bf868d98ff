"""Zip archives from strangers: what their entries may be called, and which file of them is run.

What lives here: judging, from what an archive says of itself. What does not: unpacking, where sizes are counted while
bytes are written, because those that a zip states are the sender's words.
"""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import IO, Final

from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError

__all__ = ["BROKEN", "MAX_DEPTH", "MAX_ENTRIES", "check_directory", "entry_point_among", "safe_name"]

BROKEN: Final = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError,
    IndexError, OverflowError, ValueError,
)  # fmt: skip
"""What reading bytes raises that are no zip, or a damaged one. So may ``OSError``, which of files means more."""

MAX_ENTRIES: Final = 10_000
MAX_DIRECTORY_BYTES: Final = 4 << 20  # 10,000 entries of 400 bytes each
MAX_DEPTH: Final = 32
_ENCRYPTED: Final = 0x1  # bit of ZipInfo.flag_bits
_END: Final = struct.Struct("<4s4H2LH")  # signature, disks and counts, size and place of the directory, comment
_LARGE_END_BYTES: Final = 20
_COMMENT_BYTES: Final = 1 << 16
_USUAL_ENTRY_POINTS: Final = ("main.py", "task_script.py", "run.py", "app.py", "script.py")


def check_directory(archive: IO[bytes]) -> None:
    """Refuses an archive whose directory is too large to be read: its reader builds all of it before it can be asked.

    A directory of 100 MiB takes a gigabyte and ten seconds.

    Raises:
        InvalidArgumentError: it is no zip.
        ResourceExhaustedError: its directory is too large, or in the form that only larger ones need.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(max(0, size - _COMMENT_BYTES - _END.size - _LARGE_END_BYTES))
    tail = archive.read()
    at = len(tail) - _END.size  # a reader looks there first, then for the last signature
    if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise InvalidArgumentError("is not a readable zip: it has no directory", field="archive")
    directory_bytes = _END.unpack_from(tail, at)[5]
    large = tail[max(0, at - _LARGE_END_BYTES) : at].startswith(b"PK\6\7")
    if large or directory_bytes > MAX_DIRECTORY_BYTES:
        raise ResourceExhaustedError(
            f"its directory may have {MAX_DIRECTORY_BYTES} bytes and no zip64 form", field="archive"
        )


def safe_name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Returns the path of an entry, which lies inside whatever it is unpacked into.

    Symbolic links are refused, not skipped: a program that needs one should hear of it.

    Raises:
        InvalidArgumentError: it is none, or something else than a readable file or a directory; quotes its name.
    """
    name = entry.orig_filename
    path = PurePosixPath(name)
    mode = entry.external_attr >> 16
    wrong = (
        "an absolute path" if path.is_absolute() or "\\" in name or ":" in name.split("/", 1)[0] else
        "a path that leaves the archive" if ".." in path.parts else
        "no file name" if "\0" in name or not path.parts else
        "a path too deep" if len(path.parts) > MAX_DEPTH else
        "a symbolic link" if stat.S_ISLNK(mode) else
        "neither a file nor a directory" if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) else
        "encrypted" if entry.flag_bits & _ENCRYPTED else
        ""
    )  # fmt: skip
    if wrong:
        raise InvalidArgumentError(f"entry {name!r} is {wrong}", field="archive")
    return path


def entry_point_among(files: Collection[str]) -> str | None:
    """Returns the file to run where nobody named one; None where no Python file stands at the top.

    Args:
        files: at the top of the archive.
    """
    usual = next((name for name in _USUAL_ENTRY_POINTS if name in files), None)
    return usual or min((name for name in files if name.endswith(".py")), default=None)
