"""Real processes, because a pid file is about nothing else; each test ends what it starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from arcray.cli import daemon
from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    DeadlineExceededError,
    InvalidArgumentError,
    UnavailableError,
)

WAIT_S = 20.0
SERVE = """
import signal, sys, threading
from pathlib import Path
from arcray.cli import daemon
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with daemon.claim(Path(sys.argv[1])) as claim:
    claim.ready("http://127.0.0.1:9")
    stop.wait()
"""
PARENT = """
import subprocess, sys, threading
from pathlib import Path
from arcray.cli import daemon
subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
with daemon.claim(Path(sys.argv[1])) as claim:
    claim.ready("http://127.0.0.1:9")
    threading.Event().wait()
"""
STUBBORN = """
import signal, subprocess, sys, threading
from pathlib import Path
from arcray.cli import daemon
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
with daemon.claim(Path(sys.argv[1])) as claim:
    claim.ready(str(child.pid))
    threading.Event().wait()
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"]) as process:
        yield process
        process.kill()


def command(code: str, directory: Path) -> list[str]:
    return [sys.executable, "-c", code, str(directory)]


def write(directory: Path, pid: int, started_at: float) -> None:
    (directory / "arcray.pid").write_text(f"{pid}\n{started_at:.2f}\nhttp://x\n")


def test_nothing_runs_from_an_empty_directory(tmp_path: Path) -> None:
    assert daemon.find(tmp_path) is None
    assert daemon.find(tmp_path / "absent") is None


def test_claim_shows_this_process_and_where_it_serves(tmp_path: Path) -> None:
    with daemon.claim(tmp_path) as claim:
        starting = daemon.find(tmp_path)
        claim.ready("http://127.0.0.1:8080")
        serving = daemon.find(tmp_path)
    assert starting is not None
    assert serving is not None
    assert (starting.pid, starting.url) == (os.getpid(), "")
    assert serving.url == "http://127.0.0.1:8080"
    assert daemon.find(tmp_path) is None


def test_directory_is_claimed_once(tmp_path: Path) -> None:
    with (
        daemon.claim(tmp_path),
        pytest.raises(ConflictError, match=f"pid {os.getpid()}"),
        daemon.claim(tmp_path),
    ):
        pytest.fail("claimed twice")


def test_claim_is_given_back_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with daemon.claim(tmp_path):
            raise RuntimeError("no port")

    with pytest.raises(RuntimeError):
        fail()
    with daemon.claim(tmp_path):
        assert daemon.find(tmp_path) is not None


def test_a_directory_that_is_removed_meanwhile_is_given_back_already(tmp_path: Path) -> None:
    with daemon.claim(tmp_path / "state") as claim:
        shutil.rmtree(tmp_path / "state")
        with pytest.raises(InvalidArgumentError, match=r"state_dir: .*state cannot be used: No such file"):
            claim.ready("http://127.0.0.1:8080")
    assert not (tmp_path / "state").exists()


def test_stranger_with_the_same_pid_is_not_ours(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    write(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time() - 1000)
    assert daemon.find(tmp_path) is None
    with daemon.claim(tmp_path):
        assert sleeper.poll() is None


def test_ending_never_hits_a_stranger(sleeper: subprocess.Popen[bytes]) -> None:
    stale = daemon.Running(pid=sleeper.pid, started_at=psutil.Process(sleeper.pid).create_time() - 1000)
    assert daemon.end(stale, timeout_s=1)
    assert sleeper.poll() is None


@pytest.mark.parametrize("text", ["", "abc\n", "12\n", "12\nlate\nurl\n"])
def test_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "arcray.pid").write_text(text)
    assert daemon.find(tmp_path) is None


def test_detached_process_serves_and_ends_gently(tmp_path: Path) -> None:
    """Starts an interpreter."""
    running = daemon.spawn(command(SERVE, tmp_path), tmp_path, WAIT_S)
    assert running.url == "http://127.0.0.1:9"
    assert os.getsid(running.pid) == running.pid != os.getsid(0)
    assert daemon.end(running, WAIT_S)
    assert daemon.find(tmp_path) is None
    assert not (tmp_path / "arcray.pid").exists()


def test_stubborn_process_is_killed_with_its_children(tmp_path: Path) -> None:
    """Starts two interpreters and waits for one to ignore its signal."""
    running = daemon.spawn(command(STUBBORN, tmp_path), tmp_path, WAIT_S)
    child = psutil.Process(int(running.url))
    assert not daemon.end(running, timeout_s=0.2)
    assert daemon.find(tmp_path) is None
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_failed_start_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="port 8080 is taken"):
        daemon.spawn([sys.executable, "-c", "raise SystemExit('arcray: port 8080 is taken')"], tmp_path, WAIT_S)


@pytest.mark.parametrize(("code", "error"), [(2, InvalidArgumentError), (6, ConflictError), (3, UnavailableError)])
def test_failed_start_is_told_as_the_process_told_it(tmp_path: Path, code: int, error: type[ArcrayError]) -> None:
    with pytest.raises(error, match=f"exit code {code}"):
        daemon.spawn([sys.executable, "-c", f"raise SystemExit({code})"], tmp_path, WAIT_S)


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_directory_that_cannot_be_one_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / below
    with pytest.raises(InvalidArgumentError, match="cannot be used") as refused, daemon.claim(directory):
        pass
    assert refused.value.field == "state_dir"
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        daemon.spawn([sys.executable, "-c", ""], directory, WAIT_S)
    assert daemon.find(directory) is None


def test_directory_is_made(tmp_path: Path) -> None:
    with daemon.claim(tmp_path / "a" / "b"):
        assert daemon.find(tmp_path / "a" / "b") is not None


def test_old_words_in_the_log_are_not_this_starts(tmp_path: Path) -> None:
    daemon.log_path(tmp_path).write_text("yesterday\n")
    with pytest.raises(UnavailableError, match="exit code 3") as caught:
        daemon.spawn([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, WAIT_S)
    assert "yesterday" not in str(caught.value)


def test_start_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    code = "import sys, threading; print(__import__('os').getpid(), flush=True); threading.Event().wait()"
    with pytest.raises(DeadlineExceededError):
        daemon.spawn([sys.executable, "-c", code], tmp_path, timeout_s=0.6)
    pid = int(daemon.log_path(tmp_path).read_text())
    assert psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=WAIT_S)[1] == []


def test_what_a_killed_one_has_left_is_ended_and_nothing_else(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Starts two interpreters; the stranger stands where a recorded process was before."""
    running = daemon.spawn(command(PARENT, tmp_path), tmp_path, WAIT_S)
    (child,) = psutil.Process(running.pid).children()
    assert daemon.end_orphans(tmp_path) == 0
    assert child.is_running()
    psutil.Process(running.pid).kill()
    with (tmp_path / "arcray.family").open("a") as family:
        family.write(f"{sleeper.pid} {psutil.Process(sleeper.pid).create_time() - 1000:.2f}\n")
    psutil.wait_procs([psutil.Process(running.pid)] if psutil.pid_exists(running.pid) else [], timeout=WAIT_S)
    assert daemon.end_orphans(tmp_path) == 1
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert sleeper.poll() is None
    assert daemon.end_orphans(tmp_path) == 0


def test_the_next_one_ends_what_a_killed_one_has_left(tmp_path: Path) -> None:
    """Starts two interpreters."""
    running = daemon.spawn(command(PARENT, tmp_path), tmp_path, WAIT_S)
    (child,) = psutil.Process(running.pid).children()
    psutil.Process(running.pid).kill()
    psutil.wait_procs([psutil.Process(running.pid)] if psutil.pid_exists(running.pid) else [], timeout=WAIT_S)
    with daemon.claim(tmp_path):
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def gone(pid: int) -> bool:
    return psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=WAIT_S)[1] == []


def test_start_that_cannot_be_followed_leaves_nothing_running(tmp_path: Path) -> None:
    """Starts an interpreter."""
    code = """
import os, sys, threading
from pathlib import Path
print(os.getpid(), flush=True)
Path(sys.argv[1], "arcray.pid").mkdir()
threading.Event().wait()
"""
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        daemon.spawn(command(code, tmp_path), tmp_path, WAIT_S)
    assert gone(int(daemon.log_path(tmp_path).read_text()))


def test_being_ended_while_it_waits_leaves_nothing_running(tmp_path: Path) -> None:
    """Starts two interpreters."""
    child = "import os, threading; print(os.getpid(), flush=True); threading.Event().wait()"
    code = f"""
import sys
from pathlib import Path
from arcray.cli.cluster import detached
print("starting", flush=True)
detached([sys.executable, "-c", {child!r}], Path(sys.argv[1]), {WAIT_S})
"""
    with subprocess.Popen(command(code, tmp_path), stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"starting\n"
        log = daemon.log_path(tmp_path)
        while not (log.exists() and log.read_text().endswith("\n")):
            assert parent.poll() is None
        parent.terminate()
        parent.wait(WAIT_S)
    assert parent.returncode == 128 + signal.SIGTERM
    assert gone(int(log.read_text()))
