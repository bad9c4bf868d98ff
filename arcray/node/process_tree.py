"""The processes below one: which they are, and the memory that they use. Reads ``/proc``; costs microseconds each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["anonymous_bytes", "children", "descendants", "kill_user", "signal_all"]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")


def children(pid: int) -> tuple[int, ...]:
    """Returns its direct children, () when it has ended."""
    found: list[int] = []
    # A process may end between any two of these reads.
    with suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return tuple(found)


def descendants(pid: int) -> tuple[int, ...]:
    """Returns everything below it, parents first."""
    found = list(children(pid))
    for each in found:
        found += children(each)
    return tuple(found)


def anonymous_bytes(pids: tuple[int, ...]) -> int:
    """Returns the memory of these processes that is not backed by files.

    Files are left out because a mapped model or library is the page cache's; memory that a fork shares counts twice.
    """
    pages = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            fields = (_PROC / f"{pid}/statm").read_text().split()
            pages += int(fields[1]) - int(fields[2])
    return pages * _PAGE


def signal_all(pids: tuple[int, ...], number: signal.Signals) -> None:
    """Signals each of them that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_user(uid: int) -> None:
    """Kills everything that runs as this user, until nothing does."""
    for _ in range(100):  # a fork bomb may outrun one sweep; it cannot outrun a hundred under its process limit
        pids = tuple(_of_user(uid))
        if not pids:
            return
        signal_all(pids, signal.SIGKILL)


def _of_user(uid: int) -> Iterator[int]:
    for path in _PROC.iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                if path.stat().st_uid == uid and "\nState:\tZ" not in (path / "status").read_text():
                    yield int(path.name)
