"""What an agent that was killed left on this machine: one agent at a time, and nothing of an earlier one.

Programs and models end with their agent. So whatever of theirs is here when an agent begins is nobody's: directories,
and where programs are users of their own what still runs as them. That holds only while no other agent of this node
lives, which is why a directory is claimed before anything in it is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError
from arcray.node.process_tree import kill_user
from arcray.node.sandbox import UserPool

__all__ = ["Claim", "remove_tree", "sweep"]

_log = logging.getLogger(__name__)

_LOCK: Final = "lock"


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


def remove_tree(root: Path) -> None:
    """Removes a directory, whatever a program made of it; removing none is no error."""
    try:
        shutil.rmtree(root, ignore_errors=True)
    except RecursionError:  # Python's own descends by recursion, which a program may outdo
        subprocess.run(("rm", "-rf", "--", root), check=False)  # noqa: S603, S607 - a path of our own making
