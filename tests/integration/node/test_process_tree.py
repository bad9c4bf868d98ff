"""The memory of real processes, which the kernel counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from arcray.node.process_tree import descendants, unfiled_bytes, unfiled_bytes_at_most

MIB: Final = 2**20
HELD: Final = 64 * MIB
SLACK: Final = 16 * MIB  # what three interpreters hold of their own

_HOLD: Final = """
import mmap, os, sys
held = {what}
pages = range(0, len(held), mmap.PAGESIZE)
if {ours}:
    for page in pages: held[page] = 1
first = os.fork()
second = first and os.fork()
sum(held[page] for page in pages)
os.write(1, b"ready\\n")
sys.stdin.read()
"""


@contextmanager
def three_processes(what: str, *, ours: bool = True) -> Iterator[tuple[int, ...]]:
    """Yields the pids of a process and two forks of it, each of which has read all that the first one held."""
    source = _HOLD.format(what=what, ours=ours)
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        for _ in range(3):
            assert first.stdout.readline() == b"ready\n"
        yield (first.pid, *descendants(first.pid))
        first.stdin.close()


@pytest.mark.parametrize(
    "what", [f"mmap.mmap(-1, {HELD})", f"mmap.mmap(-1, {HELD}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"]
)
def test_what_forks_share_counts_once_and_at_most_for_each(what: str) -> None:
    with three_processes(what) as pids:
        assert len(pids) == 3
        assert HELD <= unfiled_bytes(pids) < HELD + SLACK
        assert 3 * HELD <= unfiled_bytes_at_most(pids) < 3 * (HELD + SLACK)


def test_files_do_not_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "model"
    path.write_bytes(b"x" * HELD)
    what = f"mmap.mmap(os.open({str(path)!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ)"
    with three_processes(what, ours=False) as pids:
        assert unfiled_bytes_at_most(pids) < 3 * SLACK


def test_no_name_of_a_process_hides_what_it_holds() -> None:
    names = (rb"\xff", rb"x:\t5 kB", rb"\nVmRSS: 1 kB")
    what = f"(open('/proc/self/comm', 'wb').write({{name}}), mmap.mmap(-1, {HELD}))[1]"
    for name in names:
        with three_processes(what.format(name=f"b'{name.decode()}'")) as pids:
            assert unfiled_bytes(pids) >= HELD
            assert unfiled_bytes_at_most(pids) >= 3 * HELD


def test_ended_processes_hold_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert (unfiled_bytes((ended.pid,)), unfiled_bytes_at_most((ended.pid,))) == (0, 0)
