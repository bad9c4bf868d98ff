"""What an agent that was killed left on this machine: one agent at a time, and nothing of an earlier one.

Programs and models end with their agent. So whatever of theirs is here when an agent begins is nobody's: directories,
and where programs are users of their own what still runs as them. That holds only while no other agent of this node
lives, which is why a directory is claimed before anything in it is removed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError
from arcray.node.process_tree import kill_user
from arcray.node.sandbox import UserPool

__all__ = ["Claim", "remove_small_tree", "remove_tree", "sweep"]

_log = logging.getLogger(__name__)

_LOCK: Final = "lock"
_SMALL_FILE_BYTES: Final = 1 << 20
_SMALL_DIRECTORY_BYTES: Final = 1 << 16  # one that once was larger takes long to be read, even when it is empty
_SMALL_ENTRIES: Final = 8


class Claim:
    """A directory that is one agent's for as long as its process lives. The kernel ends the claim of a killed one.

    Raises:
        UnavailableError: another agent has it; it may only be on its way out.
    """

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise UnavailableError(f"another agent of this node still works in {directory}") from error

    def release(self) -> None:
        """Lets others have it."""
        os.close(self._file)


def sweep(directories: Sequence[Path]) -> None:
    """Removes everything in these directories, and ends what runs as the users that own it. Blocks on the disk.

    Args:
        directories: of programs and models; each of their entries is of one attempt.
    """
    for root in (each for directory in directories for each in directory.iterdir()):
        users = {path.lstat().st_uid for path in root.iterdir()} if root.is_dir() else set()
        for uid in filter(UserPool.has, users):
            kill_user(uid)
        remove_tree(root)
        _log.info("left by an earlier agent, removed", extra={"path": str(root)})


def remove_small_tree(root: Path) -> bool:
    """Removes a directory with few directories of few small files below it, in microseconds.

    Returns:
        Whether it is gone; what of it is not small is left, and may have been begun with.
    """
    try:
        _remove_small(root, 2)
    except OSError:  # it is not small, or is not ours to remove in this way
        return False
    return True


def _remove_small(directory: Path, depth: int) -> None:
    if depth < 0 or directory.stat().st_size > _SMALL_DIRECTORY_BYTES:
        raise OSError(errno.E2BIG, "is not small")
    with os.scandir(directory) as entries:
        found = list(islice(entries, _SMALL_ENTRIES + 1))
    if len(found) > _SMALL_ENTRIES:
        raise OSError(errno.E2BIG, "is not small")
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _remove_small(Path(entry), depth - 1)
        elif _bytes(entry.stat(follow_symlinks=False)) > _SMALL_FILE_BYTES:
            raise OSError(errno.E2BIG, "is not small")
        else:
            Path(entry).unlink()
    directory.rmdir()


def _bytes(found: os.stat_result) -> int:
    """Returns how much a file takes, which may be much beyond its end."""
    return max(found.st_size, found.st_blocks * 512)


def remove_tree(root: Path) -> None:
    """Removes a directory, whatever a program made of it; removing none is no error."""
    try:
        shutil.rmtree(root, ignore_errors=True)
    except RecursionError:  # Python's own descends by recursion, which a program may outdo
        subprocess.run(("rm", "-rf", "--", root), check=False)  # noqa: S603, S607 - a path of our own making
