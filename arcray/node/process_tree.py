"""The processes below one: which they are, and the memory that they use. Reads ``/proc``; costs microseconds each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["children", "descendants", "kill_user", "signal_all", "unfiled_bytes", "unfiled_bytes_at_most"]

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


def unfiled_bytes_at_most(pids: tuple[int, ...]) -> int:
    """Returns an upper bound of ``unfiled_bytes``: what processes share counts for each of them. Microseconds each."""
    return sum(map(_resident, pids))


def unfiled_bytes(pids: tuple[int, ...]) -> int:
    """Returns the memory that these processes have mapped, private or shared, and no file on a disk stands behind.

    Files are left out because a mapped model or library is the page cache's. What several processes share counts once
    in all. The kernel walks their page tables for it, 13 ms for each GiB: not for an event loop.
    """
    return sum(map(_proportional, pids))


def _resident(pid: int) -> int:
    """Returns what one process has mapped but of files, 0 when it has ended."""
    amounts = _amounts(_PROC / f"{pid}/status", (b"VmRSS", b"RssFile"))
    return amounts.get(b"VmRSS", 0) - amounts.get(b"RssFile", 0)


def _proportional(pid: int) -> int:
    """Returns its share of what it has mapped but of files; all of it where the program forbids us to look."""
    names = (b"Pss_Anon", b"Pss_Shmem")
    amounts = _amounts(_PROC / f"{pid}/smaps_rollup", names)
    return sum(amounts.values()) if len(amounts) == len(names) else _resident(pid)


def _amounts(path: Path, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Returns amounts of memory from a file of the kernel's, in bytes; none when it cannot be read.

    Other lines are left alone: the name of a process is whatever bytes it chose.
    """
    amounts: dict[bytes, int] = {}
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            name, _, amount = line.partition(b":")
            if name in names:
                amounts[name] = int(amount.removesuffix(b" kB")) * 1024
    return amounts


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
