"""Directories of programs, used again where a program has left them as they were.

A file system takes long to make a directory, and some take longer the more were removed of late: ext4 passes over what
was removed within a minute, which at hundreds of programs a second is a millisecond for each. A directory is used again
for programs of the same owner alone, and only if it holds nothing but the program's own file, with the rights, the one
name and the attributes that it began with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Final

__all__ = ["SOURCE", "Places"]

SOURCE: Final = "main.py"
_KEPT: Final = 64
_DIRECTORY: Final = stat.S_IFDIR | 0o700
_FILE: Final = stat.S_IFREG | 0o600


class Places:
    """Names and keeps directories, each with the directories ``work`` and ``results`` in it.

    Args:
        directory: where they are.
        remove: removes one that was lately kept and is not wanted any more; it is small.
    """

    def __init__(self, directory: Path, remove: Callable[[Path], object]) -> None:
        self._directory = directory
        self._remove = remove
        self._spare: dict[Path, str] = {}  # with the owner; the oldest first
        self._numbers = count(1)

    def take(self, owner: str) -> Path:
        """Returns one for a program whose file will be ``work/main.py``; it is the caller's until it is given back.

        It may be there already, or not yet.
        """
        for root, whose in self._spare.items():
            if whose == owner:
                del self._spare[root]
                return root
        return self._directory / f"place-{next(self._numbers)}"

    def give_back(self, owner: str, root: Path, uid: int) -> bool:
        """Keeps one if the program of this user has left it as it was; returns whether it does."""
        if not _is_as_made(root, uid):
            return False
        self._spare[root] = owner
        if len(self._spare) > _KEPT:
            oldest = next(iter(self._spare))
            del self._spare[oldest]
            self._remove(oldest)
        return True

    def close(self) -> None:
        """Removes all that it keeps."""
        while self._spare:
            self._remove(self._spare.popitem()[0])


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
