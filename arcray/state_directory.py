"""Who may read the state directory: its owner.

What lives here: modes. What does not: what stands in it. A directory that arcray makes is its user's alone; where that
is root, others may pass through it, because programs and models run as users of their own below ``node/``. One that is
there already stays as whoever made it wanted it: it may be a volume, or somebody's home. So what holds secrets
(database, blobs, log) is private by itself, whatever directory it is in.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["make", "make_passage", "private"]

_PASSAGE: Final = 0o711
_OURS: Final = ("arcray.*", "blobs")
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make(directory: Path) -> None:
    """Makes a state directory unless it is there, and closes what an earlier arcray left open to others in it.

    Raises:
        OSError: it cannot be made, or is no directory.
    """
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise
        for path in (path for pattern in _OURS for path in directory.glob(pattern)):
            _close(path)
    else:
        if os.geteuid() == 0:
            directory.chmod(_PASSAGE)


def make_passage(directory: Path) -> None:
    """Makes a directory that others may pass through and not list, unless it is there; ignores the umask.

    Raises:
        OSError: it cannot be made.
    """
    try:
        directory.mkdir()
    except FileExistsError:
        return
    directory.chmod(_PASSAGE)


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner may read if it is made by this; the opener for ``open``."""
    return os.open(path, flags, 0o600)


def _close(path: Path) -> None:
    try:
        found = path.lstat()
        if found.st_uid == os.geteuid() and found.st_mode & _OTHERS and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    except FileNotFoundError:
        return  # SQLite removes its own beside us
