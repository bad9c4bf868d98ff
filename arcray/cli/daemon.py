"""The process that ``arcray up`` is: found by its pid file, told apart from a stranger with the same pid, ended.

What lives here: one pid file per state directory, and so one arcray per state directory. What does not: what that
process does. The file has three lines: pid, start time of that process, URL once it serves.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from arcray import state_directory
from arcray.cli.exit_codes import EXIT_CODES
from arcray.core.errors import ConflictError, DeadlineExceededError, InvalidArgumentError, UnavailableError
from arcray.state_directory import private

__all__ = ["Claim", "Running", "claim", "end", "end_orphans", "find", "left", "log_path", "spawn"]

_SAME_START_S: Final = 2.0  # the kernel's boot time, which start times are counted from, may be corrected this much
_POLL_S: Final = 0.1
_REFUSED: Final = {EXIT_CODES[error.code]: error for error in (InvalidArgumentError, ConflictError)}  # else unavailable
_LINGER_S: Final = 5.0  # what helpers of a process that ended well may take to follow it


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A process that serves from a state directory.

    Args:
        started_at: start of the process in seconds since the epoch.
        url: where it serves; "" while it starts.
    """

    pid: int
    started_at: float
    url: str = ""


def log_path(directory: Path) -> Path:
    """Returns where a detached process writes what it prints."""
    return directory / "arcray.log"


def find(directory: Path) -> Running | None:
    """Returns the process that serves from this directory, None when there is none (a stale file counts as none).

    Raises:
        InvalidArgumentError: the directory cannot be read.
    """
    with _usable(directory):
        recorded = _read(_pid_path(directory))
    return recorded if recorded and _alive(recorded) else None


def left(directory: Path) -> int | None:
    """Returns how many containers the last arcray of this directory left running; None when it could not tell."""
    try:
        return int(_left_path(directory).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def claim(directory: Path) -> Iterator[Claim]:
    """Makes this process the one of the directory while the block runs.

    Raises:
        ConflictError: another one serves from it.
        InvalidArgumentError: it cannot be made, or not be written.
    """
    path = _pid_path(directory)
    with _usable(directory):
        state_directory.make(directory)
        with _locked(directory):
            other = find(directory)
            if other is not None:
                raise ConflictError(f"arcray already runs from {directory} as pid {other.pid}; see arcray down")
            _end_family(directory)
            mine = Running(pid=os.getpid(), started_at=_start_of(os.getpid()) or 0.0)
            _write(path, mine)
            _left_path(directory).unlink(missing_ok=True)
    try:
        yield Claim(path, mine)
    finally:
        # Somebody may have removed the directory meanwhile, and then nothing is to be given back.
        with _usable(directory), suppress(FileNotFoundError), _locked(directory):
            recorded = _read(path)
            if recorded is not None and recorded.pid == mine.pid:
                path.unlink(missing_ok=True)
                _family_path(directory).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory that is ours."""

    path: Path
    mine: Running

    def ready(self, url: str) -> None:
        """Tells others that we serve, and where; and whom we have started, should we be killed without ending them.

        Raises:
            InvalidArgumentError: the directory cannot be written.
        """
        with suppress(OSError):
            _write_family(self.path.parent)
        with _usable(self.path.parent):
            _write(self.path, replace(self.mine, url=url))

    def leave(self, containers: int) -> None:
        """Tells whoever ended us how many containers run on; on a full disk nobody hears of it."""
        with suppress(OSError):
            _put(_left_path(self.path.parent), f"{containers}\n")


def spawn(command: Sequence[str], directory: Path, timeout_s: float) -> Running:
    """Starts a command in a session of its own and returns once it has claimed the directory and serves.

    Raises:
        InvalidArgumentError: the directory cannot be made or written, or the process said that its words were wrong.
        ConflictError: it said that it is in another's way.
        UnavailableError: it ended otherwise before it served; as with the two before, the message has its last words.
        DeadlineExceededError: it does not serve in time.

    Whatever is raised, nothing of it runs on.
    """
    log = log_path(directory)
    with _usable(directory):
        state_directory.make(directory)
        sink = os.fdopen(private(str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC), "ab")
    with sink:
        began = sink.tell()
        process = subprocess.Popen(  # noqa: S603  our own command line
            list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        running = _served(process, directory, timeout_s, began)
    except BaseException:
        end(Running(pid=process.pid, started_at=_start_of(process.pid) or 0.0), _LINGER_S)
        process.wait()
        raise
    process.returncode = 0  # it goes on without us; else Popen complains when it is collected
    return running


def end_orphans(directory: Path) -> int:
    """Ends what a killed arcray of this directory has left; returns how many processes that were; 0 while one runs.

    Raises:
        InvalidArgumentError: the directory cannot be read.
    """
    with _usable(directory):
        if not _family_path(directory).exists():
            return 0
        with _locked(directory):
            return 0 if find(directory) else _end_family(directory)


def end(running: Running, timeout_s: float) -> bool:
    """Ends a process gently, then surely, with what it started; returns whether gently was enough.

    Args:
        timeout_s: between asking and killing.
    """
    import psutil  # late: only `down` needs it

    try:
        process = psutil.Process(running.pid)
        # Its children are remembered now: once it is dead they cannot be told from anyone else's.
        family = [process, *process.children(recursive=True)]
        if not _alive(running):
            return True
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return True
    _, alive = psutil.wait_procs([process], timeout=timeout_s)
    gently = not alive
    # psutil compares start times before it signals, so a reused pid is never hit.
    _, left = psutil.wait_procs(family, timeout=_LINGER_S if gently else 0)
    for one in left:
        with _ignoring_gone():
            one.kill()
    psutil.wait_procs(left, timeout=_LINGER_S)
    return gently


@contextmanager
def _ignoring_gone() -> Iterator[None]:
    import psutil

    try:
        yield
    except psutil.NoSuchProcess:
        return


def _served(process: subprocess.Popen[bytes], directory: Path, timeout_s: float, began: int) -> Running:
    """Returns a process once it serves.

    Args:
        began: where its words begin in the log.
    """
    log = log_path(directory)
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            running = find(directory)
            if running and running.pid == process.pid and running.url:
                return running
        else:
            words = log.read_bytes()[began:].decode(errors="replace").strip().splitlines()
            last = words[-1].removeprefix("arcray: ") if words else f"exit code {process.returncode}"
            refused = _REFUSED.get(process.returncode, UnavailableError)
            raise refused(f"it ended while starting: {last} (all of it in {log})")
    raise DeadlineExceededError(f"it does not serve after {timeout_s:g} s and was stopped; see {log}")


def _pid_path(directory: Path) -> Path:
    return directory / "arcray.pid"


def _family_path(directory: Path) -> Path:
    return directory / "arcray.family"


def _write_family(directory: Path) -> None:
    import psutil

    lines = []
    for child in psutil.Process().children(recursive=True):
        with _ignoring_gone():
            lines.append(f"{child.pid} {child.create_time():.2f}\n")
    _put(_family_path(directory), "".join(lines))


def _end_family(directory: Path) -> int:
    """Kills those of the recorded processes that are still the ones that were recorded."""
    path = _family_path(directory)
    if not path.exists():
        return 0
    import psutil

    ended = []
    for line in path.read_text(encoding="ascii").splitlines():
        with suppress(ValueError, psutil.Error):
            pid, started_at = line.split()
            if _alive(Running(pid=int(pid), started_at=float(started_at))):
                process = psutil.Process(int(pid))
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=_LINGER_S)
    path.unlink(missing_ok=True)
    return len(ended)


def _left_path(directory: Path) -> Path:
    return directory / "arcray.left"


def _read(path: Path) -> Running | None:
    try:
        pid, started_at, url = [*path.read_text(encoding="utf-8").splitlines(), "", "", ""][:3]
        return Running(pid=int(pid), started_at=float(started_at), url=url)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _write(path: Path, running: Running) -> None:
    # Renamed into place, so that a reader sees the old or the new one.
    fresh = path.with_suffix(".new")
    _put(fresh, f"{running.pid}\n{running.started_at:.2f}\n{running.url}\n")
    fresh.replace(path)


def _put(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=private) as file:
        file.write(text)


def _start_of(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except psutil.NoSuchProcess:
        return None


def _alive(running: Running) -> bool:
    start = _start_of(running.pid)
    return start is not None and abs(start - running.started_at) <= _SAME_START_S


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Says of whatever the block fails at that the directory is to blame."""
    try:
        yield
    except OSError as error:
        raise InvalidArgumentError(f"{directory} cannot be used: {error.strerror}", field="state_dir") from error


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # Two `arcray up` at once must not both find the directory free.
    with open(directory / "arcray.lock", "w", opener=private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
