"""Directories of programs, used again where a program has left them as they were.

A file system takes long to make a directory, and some take longer the more were removed of late: ext4 passes over what
was removed within a minute, which at hundreds of programs a second is a millisecond for each. A directory is used again
for programs of the same owner alone, and only if it holds nothing but the program's own file, with the rights, the one
name, the attributes and the flags that it began with, and so few blocks that to write to it is no work. Its user goes
with it: what is a user's stays so, and a process that waits for the next program of a place can have made all of its
sandbox.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Final

__all__ = ["SOURCE", "Place", "Places"]

SOURCE: Final = "main.py"
_KEPT: Final = 64
_DIRECTORY: Final = stat.S_IFDIR | 0o700
_FILE: Final = stat.S_IFREG | 0o600
_BLOCK: Final = 512  # bytes of st_blocks
_FILE_BYTES: Final = 1 << 16
_GET_FLAGS: Final = 0x8008_6601  # FS_IOC_GETFLAGS
_NOT_BY_PROGRAMS: Final = 0x1028_1300 | 0x000C_0000  # those of FS_*_FL that say how a file system keeps a file


@dataclass(frozen=True, slots=True)
class Place:
    """A directory with the directories ``work`` and ``results`` in it, and whose they are.

    Args:
        root: may be there already, or not yet.
    """

    root: Path
    uid: int


class Places:
    """Names and keeps places.

    Args:
        directory: where they are.
        clear: does away with one of an owner that was kept and is not wanted any more; it is small.
    """

    def __init__(self, directory: Path, clear: Callable[[str, Place], object]) -> None:
        self._directory = directory
        self._clear = clear
        self._spare: dict[Place, str] = {}  # with the owner; the oldest first
        self._numbers = count(1)

    def take(self, owner: str) -> Place | None:
        """Returns one of this owner's, that given back last; it is the caller's until it is given back."""
        for place, whose in reversed(self._spare.items()):
            if whose == owner:
                del self._spare[place]
                return place
        return None

    def named(self, uid: int) -> Place:
        """Returns another one, for a program whose file will be ``work/main.py``; the caller makes its directories."""
        return Place(self._directory / f"place-{next(self._numbers)}", uid)

    def give_back(self, owner: str, place: Place) -> bool:
        """Keeps one if its program has left it as it was; returns whether it does."""
        try:
            if not _is_as_made(place.root, place.uid):
                return False
        except OSError:
            return False
        self._spare[place] = owner
        if len(self._spare) > _KEPT:
            oldest = next(iter(self._spare))
            self._clear(self._spare.pop(oldest), oldest)
        return True

    def close(self) -> None:
        """Does away with all that it keeps."""
        while self._spare:
            place, owner = self._spare.popitem()
            self._clear(owner, place)


def _is_as_made(root: Path, uid: int) -> bool:
    work, results = f"{root}/work", f"{root}/results"
    file = f"{work}/{SOURCE}"
    if {*_names(str(root))} != {"work", "results"} or _names(work) != [SOURCE] or _names(results):
        return False
    attributes, flags = _attributes(root), _flags(root, os.O_RDONLY)  # which the program cannot change
    for path, mode, access in (
        (work, _DIRECTORY, os.O_RDONLY),
        (results, _DIRECTORY, os.O_RDONLY),
        (file, _FILE, os.O_RDWR),  # which is refused where somebody has a lease of it, and would have us wait
    ):
        found = os.lstat(path)
        if (found.st_mode, found.st_uid) != (mode, uid):
            return False
        if _attributes(path) != attributes or _flags(path, access) != flags:
            return False
    # Blocks may be there beyond the end of a file.
    return found.st_nlink == 1 and found.st_size <= _FILE_BYTES and found.st_blocks * _BLOCK <= 2 * _FILE_BYTES


def _names(directory: str) -> list[str]:
    """Returns the names in a directory, or the first few of them."""
    if os.lstat(directory).st_size > 1 << 16:  # it was large once, and takes long to be read
        return ["", "", ""]
    with os.scandir(directory) as entries:
        return [entry.name for entry in islice(entries, 3)]


def _attributes(path: str | Path) -> dict[str, bytes]:
    """Returns the extended attributes of a file, among which lists of further users are."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # they are too many
            raise
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _flags(path: str | Path, access: int) -> int:
    """Returns the flags of a file that a program could change: that it is written at once, or never again."""
    file = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return int.from_bytes(fcntl.ioctl(file, _GET_FLAGS, bytes(8))[:4], sys.byteorder) & ~_NOT_BY_PROGRAMS
    except OSError:  # a file system without them
        return 0
    finally:
        os.close(file)
