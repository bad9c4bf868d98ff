"""``arcray up`` without Ray: a process that serves something else, told to end by real signals."""

from __future__ import annotations

import signal
import socket
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
        return int(sys.argv[2]) if sys.argv[2:] else 0

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


@pytest.mark.parametrize(
    ("containers", "said"), [(1, "1 container runs on; "), (2, "2 containers run on; ")], ids=["one", "two"]
)
def test_down_says_how_many_containers_run_on(tmp_path: Path, containers: int, said: str) -> None:
    with serving(tmp_path, str(containers)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        command = [sys.executable, "-m", "arcray.cli.main", "down", "--state-dir", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as down:
            output, _ = process.communicate(timeout=WAIT_S)  # or it would stay a zombie, which counts as running
            told, _ = down.communicate(timeout=WAIT_S)
    assert told.splitlines()[0] == f"arcray has ended (pid {process.pid})"
    assert told.splitlines()[1].startswith(said)
    assert output.splitlines()[-1].startswith(said)


def test_down_owns_that_it_does_not_know_what_runs_on(tmp_path: Path) -> None:
    with daemon.claim(tmp_path) as claim:
        claim.leave(3)
    assert daemon.left(tmp_path) == 3
    with daemon.claim(tmp_path):  # and is killed before it can tell
        assert daemon.left(tmp_path) is None


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


def test_files_beside_whoever_types_are_no_modules_of_a_detached_one(tmp_path: Path) -> None:
    """Starts two interpreters, and Ray's library in one of them."""
    directory = tmp_path / "strange"
    directory.mkdir()
    for name in ("arcray", "click", "psutil", "ray"):
        (directory / f"{name}.py").write_text("raise SystemExit('not the module that was meant')\n")
    command = [sys.executable, "-P", "-m", "arcray.cli.main", "up", "--detach", "--state-dir", str(tmp_path / "state")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "settings.yaml").write_text(f"gateway: {{http_ports: [{port}]}}\n")
        command += ["--config", str(tmp_path / "settings.yaml")]
        refused = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert refused.returncode == 6, refused.stderr
    assert str(port) in refused.stderr


@pytest.mark.parametrize("detach", [[], ["--detach"]], ids=["here", "detached"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("database_url: mysql://x", "database_url: mysql is not supported"),
        ("facades: [nope]", "facades: no protocol 'nope'"),
        ("blobs: {url: 'nope://x'}", "blobs.url: cannot use this blob store"),
        ("", "database_url: {directory}/arcray.db: file is not a database"),
    ],
    ids=["database", "facade", "blobs", "garbage"],
)
def test_wrong_settings_are_refused_before_anything_starts(
    tmp_path: Path, settings: str, said: str, detach: list[str]
) -> None:
    """Starts an interpreter."""
    (tmp_path / "arcray.db").write_bytes(b"garbage" * 1000)
    (tmp_path / "settings.yaml").write_text(settings)
    command = [sys.executable, "-m", "arcray.cli.main", "up", "--state-dir", str(tmp_path), *detach]
    command += ["--config", str(tmp_path / "settings.yaml")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"arcray: {said.format(directory=tmp_path)}")
    assert {path.name for path in tmp_path.iterdir()} == {"arcray.db", "settings.yaml"}
