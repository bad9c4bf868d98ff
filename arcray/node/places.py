"""Directories of programs, used again where a program has left them as they were.

A file system takes long to make a directory, and some take longer the more were removed of late: ext4 passes over what
was removed within a minute, which at hundreds of programs a second is a millisecond for each. A directory is used again
for programs of the same owner alone, and only if it holds nothing but the program's own file, with the rights, the one
name and the attributes that it began with. Its user goes with it: what is a user's stays so, and a process that waits
for the next program of a place can have made all of its sandbox.
"""

from __future__ import annotations

import os
import stat
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
        if not _is_as_made(place.root, place.uid):
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
    for path, mode in ((work, _DIRECTORY), (results, _DIRECTORY), (file, _FILE)):
        found = os.lstat(path)
        if (found.st_mode, found.st_uid) != (mode, uid) or _has_attributes(path):
            return False
    return os.lstat(file).st_nlink == 1 and os.lstat(file).st_size <= 1 << 16


def _names(directory: str) -> list[str]:
    """Returns the names in a directory, or the first few of them."""
    if os.lstat(directory).st_size > 1 << 16:  # it was large once, and takes long to be read
        return ["", "", ""]
    with os.scandir(directory) as entries:
        return [entry.name for entry in islice(entries, 3)]


def _has_attributes(path: str) -> bool:
    """Returns whether a file has extended attributes, among which lists of further users are."""
    try:
        return os.listxattr(path, follow_symlinks=False) != []
    except OSError:  # a file system without them
        return False
