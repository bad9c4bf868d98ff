"""``arcray up`` without Ray: a process that serves something else, told to end by real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcray.cli import daemon

WAIT_S = 20.0
SERVE = """
import sys, threading
from pathlib import Path
from arcray.cli.cluster import serve

class Served:
    url = "http://127.0.0.1:9"
    def down(self):
        print("down", flush=True)

def start():
    try:
        print("starting", flush=True)
        while "slowly" in sys.argv:
            # Not endless: a signal that falls just before an endless wait would be missed.
            threading.Event().wait(0.1)
    except SystemExit:
        print("cleaned up", flush=True)
        raise
    return Served()

serve(Path(sys.argv[1]), start)
"""


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVE, str(directory), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "starting\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "arcray serves at http://127.0.0.1:9; Ctrl-C ends it\n"
        running = daemon.find(tmp_path)
        assert running is not None
        assert (running.pid, running.url) == (process.pid, "http://127.0.0.1:9")
        process.send_signal(number)
        output, _ = process.communicate(timeout=WAIT_S)
        assert output == "arcray is ending\ndown\n"
        assert process.returncode == 0
    assert not (tmp_path / "arcray.pid").exists()


def test_being_ended_while_it_starts_cleans_up(tmp_path: Path) -> None:
    with serving(tmp_path, "slowly") as process:
        process.terminate()
        output, _ = process.communicate(timeout=WAIT_S)
        assert output == "cleaned up\n"
        assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "arcray.pid").exists()


def test_second_one_of_a_directory_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        command = [sys.executable, "-m", "arcray.cli.main", "up", "--state-dir", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert second.returncode == 6
    assert second.stderr == f"arcray: arcray already runs from {tmp_path} as pid {process.pid}; see arcray down\n"
