"""What isolates a native program. The strongest kind that works on this machine, proven by running it.

``bubblewrap``: own mount, pid, ipc, uts and (unless networking is allowed) net namespaces; the system and the
runtime's Python environment read-only; nothing else of the host. As root the program becomes a user of its own, which
nothing else on the machine runs as; otherwise the namespaces are made inside a user namespace.
``user``: a restricted subprocess: limits, empty environment, own directory, and as root a user of its own. It sees the
host's files as its user does; where the agent is not root, that is the agent's own. ``none``: the same without the own
user, as root too; only by configuration.

No program but that of ``none`` makes user namespaces, in which it would be root.

Limits are per process except the number of processes; what a whole tree uses is watched by ``program.py``. There is
none of address space: thread stacks, allocator arenas and CUDA reserve much that they never touch (scikit-learn cannot
be imported under 384 MiB of it, and trains under our limit; a CUDA context reserves 13 GiB).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import site
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from arcray.core.errors import ResourceExhaustedError, UnavailableError

__all__ = ["Command", "Confinement", "Limits", "Sandbox", "SandboxKind", "UserPool"]

_log = logging.getLogger(__name__)

_MIB: Final = 2**20
# What counts as data though it is hardly touched: libraries' own segments, BLAS buffers, the stacks of thread pools: a
# GPU framework makes some four threads a core (JAX 60 of 8 MiB on 16 cores).
DATA_SLACK_BYTES: Final = 512 * _MIB + 4 * 8 * _MIB * (os.cpu_count() or 1)
_TMP_MAX_BYTES: Final = 1024 * _MIB
_TMP_MIN_BYTES: Final = 16 * _MIB
_OPEN_FILES: Final = 4096
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC: Final = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime")
_ETC_NETWORK: Final = ("/etc/hosts", "/etc/nsswitch.conf", "/etc/pki", "/etc/resolv.conf", "/etc/ssl")
INSIDE: Final = Path("/sandbox")
PROGRAMS: Final = "/dev/shm"  # noqa: S108 - where a fork server, and no program, sees the directories of programs
# For namespaces and mounts, for loopback interfaces, to become programs' users, and to end them.
_SERVER_RIGHTS: Final = ("SYS_ADMIN", "NET_ADMIN", "SETUID", "SETGID", "KILL")
THREAD_COUNTS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables by which numeric libraries size their thread pools."""

_LAUNCHER: Final = (Path(__file__).with_name("launcher.py")).read_text(encoding="utf-8")
_PART_NAME: Final = "ARCRAY_LAUNCH_"
_PART: Final = 100_000  # characters, all of them ASCII; Linux takes 131,071 bytes. The launcher knows it too
_FIRST_UID: Final = 61_184  # systemd's range for dynamic users: nobody's by convention, and within 16 bits
_LAST_UID: Final = 65_519


class SandboxKind(StrEnum):
    """How a program is isolated; as in ``DriverCapabilities.sandbox``, where an image is ``runner_image`` instead."""

    BUBBLEWRAP = "bubblewrap"
    USER = "user"
    NONE = "none"
    IMAGE = "image"  # a container of the runner image; the engine confines it


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use.

    Args:
        memory_bytes: of its whole tree, memory that no file on a disk stands behind.
        processes: processes and threads.
        file_bytes: of the largest file it writes.
    """

    memory_bytes: int
    processes: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """One program's place.

    Args:
        work: its directory on the host; it is at ``Command.work`` for the program.
        results: where its result files go, likewise.
        uid: the user it becomes; None stays who we are.
        devices: device files that it may use.
        libraries: directories of libraries that it reads besides those of the system and of the interpreter.
        stays: whether programs to come have the same directories and user, if this one leaves them as they are.
    """

    work: Path
    results: Path
    limits: Limits
    uid: int | None = None
    network: bool = False
    devices: tuple[Path, ...] = ()
    libraries: tuple[Path, ...] = ()
    stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start a confined program: arguments and environment of the outermost process.

    The environment holds the launcher's orders and nothing else; the program gets its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]


class UserPool:
    """Users that programs become, one each: processes are counted and killed by user, files are private to it."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._next = secrets.randbelow(_LAST_UID - _FIRST_UID) + _FIRST_UID

    def take(self) -> int:
        """Returns a user id that no other program here has.

        Raises:
            ResourceExhaustedError: thousands of programs run already.
        """
        for _ in range(_FIRST_UID, _LAST_UID + 1):
            uid = self._next
            self._next = uid + 1 if uid < _LAST_UID else _FIRST_UID
            if uid not in self._taken:
                self._taken.add(uid)
                return uid
        raise ResourceExhaustedError("too many programs run on this machine", field="node")

    @staticmethod
    def has(uid: int) -> bool:
        """Returns whether it is one of those that programs become."""
        return _FIRST_UID <= uid <= _LAST_UID

    def give_back(self, uid: int) -> None:
        """Frees a user id once nothing runs as it."""
        self._taken.discard(uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """One way to confine programs.

    Args:
        own_user: each program becomes a user of its own (needs root).
        bwrap: the bubblewrap executable.
        python: interpreter that runs launcher and program.
    """

    kind: SandboxKind
    own_user: bool
    bwrap: str = "bwrap"
    python: str = sys.executable

    def paths(self, place: Confinement) -> tuple[Path, Path]:
        """Returns the work and the result directory as the program sees them."""
        if self.kind in (SandboxKind.BUBBLEWRAP, SandboxKind.IMAGE):
            return INSIDE / "work", INSIDE / "results"
        return place.work, place.results

    def command(self, place: Confinement, arguments: Sequence[str], env: Mapping[str, str]) -> Command:
        """Returns how to run the interpreter with these arguments inside.

        Args:
            env: the program's whole environment.
        """
        work, _ = self.paths(place)
        spec = {
            "argv": [self.python, *arguments],
            "cwd": str(work),
            "env": dict(env),
            "limits": resource_limits(place.limits),
            "bare": self.kind is not SandboxKind.BUBBLEWRAP,  # nobody else denies it new privileges and ends it with us
            "confined": self.kind is not SandboxKind.NONE,
            "uid": place.uid,
        }
        launch = (self.python, "-I", "-S", "-c", _LAUNCHER)
        wrap = tuple(self._bwrap_arguments(place)) if self.kind is SandboxKind.BUBBLEWRAP else ()
        return Command(argv=wrap + launch, env=_in_parts(json.dumps(spec)))

    def server_command(self, programs: Path, arguments: Sequence[str], *, network: bool) -> Command:
        """Returns how to run a fork server with these arguments, as root with what it needs to confine its programs.

        Args:
            programs: the directory in which programs have theirs.

        Raises:
            UnavailableError: the interpreter lies where a fork server's programs see it no more.
        """
        assert self.kind is SandboxKind.BUBBLEWRAP and self.own_user, "programs are users of their own"  # noqa: PT018
        roots = environment_roots(self.python)
        if any(inside.is_relative_to(PROGRAMS) for _, inside in roots):
            raise UnavailableError(f"the interpreter is below {PROGRAMS}")
        covered = [str(inside) for _, inside in roots if inside.is_relative_to("/tmp")]  # noqa: S108
        none = Path("/dev/null")
        work = INSIDE / "work"
        argv = (
            *self._namespaces(network=network),
            *("--cap-drop", "ALL", *(word for name in _SERVER_RIGHTS for word in ("--cap-add", f"CAP_{name}"))),
            *_system(),
            *("--proc", "/proc", "--dev", "/dev", "--bind", str(programs), PROGRAMS, "--remount-ro", "/dev"),
            *("--perms", "1777", "--dir", "/tmp"),  # noqa: S108
            *_etc({"passwd": none, "group": none}, network=network),
            *_read_only(roots),
            *("--perms", "0755", "--dir", str(INSIDE), "--dir", str(work), "--dir", str(INSIDE / "results")),
            *("--chdir", "/", "--", self.python, "-u", "-c", *arguments, *covered),
        )
        return Command(argv=argv, env=self.usual_environment())

    def usual_environment(self) -> dict[str, str]:
        """Returns the variables that most programs have in bubblewrap alike; a fork sets those anew that differ."""
        return {
            "HOME": str(INSIDE / "work"),
            "LANG": "C.UTF-8",
            "PATH": search_path(self.python),
            "PYTHONUNBUFFERED": "1",
            **dict.fromkeys(THREAD_COUNTS, "1"),
            "CUDA_VISIBLE_DEVICES": "",
            "ARCRAY_RESULT_DIR": str(INSIDE / "results"),
        }

    def prepare(self, place: Confinement) -> None:
        """Hands the directories to the program's user, and writes what stands for /etc inside. Blocks on the disk."""
        self.give(place)
        if self.kind is SandboxKind.BUBBLEWRAP:
            uid = os.getuid() if place.uid is None else place.uid
            accounts = _accounts(place)
            accounts.mkdir(exist_ok=True)
            (accounts / "passwd").write_text(f"program:x:{uid}:{uid}::{INSIDE / 'work'}:/usr/sbin/nologin\n")
            (accounts / "group").write_text(f"program:x:{uid}:\n")

    @staticmethod
    def give(place: Confinement) -> None:
        """Hands the directories to the program's user. Blocks on the disk."""
        if place.uid is not None:
            for directory in (place.work, place.results):
                _give(directory, place.uid)

    @staticmethod
    def is_given(place: Confinement) -> bool:
        """Returns whether the directories are the program's user's already, as they are where a place stays."""
        return place.work.stat().st_uid == place.uid

    def _namespaces(self, *, network: bool) -> Iterator[str]:
        yield from (self.bwrap, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
        yield from ("--die-with-parent", "--hostname", "sandbox")
        if not network:
            yield "--unshare-net"

    def _bwrap_arguments(self, place: Confinement) -> Iterator[str]:
        yield from self._namespaces(network=place.network)
        if place.uid is None:
            yield from ("--unshare-user", "--disable-userns", "--cap-drop", "ALL")
        else:
            # Only as long as the launcher needs to become the program's user; they are lost with that step.
            yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        tmp = str(tmp_bytes(place.limits))
        yield from _system()
        yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", tmp, "--tmpfs", "/dev/shm")  # noqa: S108
        for device in place.devices:
            yield from ("--dev-bind-try", str(device), str(device))
        # Only now, for nothing can be put into it any more.
        yield from ("--remount-ro", "/dev", "--perms", "1777", "--size", tmp, "--tmpfs", "/tmp")  # noqa: S108
        accounts = {name: _accounts(place) / name for name in ("passwd", "group")}
        yield from _etc(accounts, network=place.network)
        environment = environment_roots(self.python)
        yield from _read_only(environment)
        there = (*map(Path, _SYSTEM), *(inside for _, inside in environment))
        further = [path for path in place.libraries if not any(path.is_relative_to(root) for root in there)]
        yield from _read_only((path, path) for path in further)
        work, results = self.paths(place)
        yield from ("--perms", "0755", "--dir", str(INSIDE))
        yield from ("--bind", str(place.work), str(work), "--bind", str(place.results), str(results), "--")


def search_path(*pythons: str) -> str:
    """Returns where programs look for others: beside these interpreters, and where the system has them."""
    return ":".join((*[str(Path(python).parent) for python in pythons], "/usr/local/bin", "/usr/bin", "/bin"))


def environment_roots(python: str) -> tuple[tuple[Path, Path], ...]:
    """Returns (source, place) of every directory that the interpreter needs, outermost first.

    A virtual environment names its base by a path that may itself be a link, so both spellings are there.
    """
    named = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), Path(python).parent.parent}
    named.update(Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
    named.update(Path(entry) for entry in site.getsitepackages())
    link = Path(python)
    while link.is_symlink():  # every step of the chain, since the kernel follows each by its own path
        link = link.parent / link.readlink()
        named.add(Path(os.path.normpath(link)).parent.parent)
    places = named | {path.resolve() for path in named}
    existing = sorted(path for path in places if path.is_dir() and path != Path("/"))
    inside_system = [path for path in existing if any(path.is_relative_to(root) for root in _SYSTEM)]
    kept: list[Path] = []
    for path in existing:
        if path not in inside_system and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return tuple((path.resolve(), path) for path in kept)


def _read_only(places: Iterable[tuple[Path, Path]]) -> Iterator[str]:
    for source, place in places:
        # bubblewrap makes missing parents with mode 0700, which another user could not enter.
        for parent in reversed(place.parents[:-1]):
            if str(parent) not in ("/tmp", "/etc"):  # noqa: S108
                yield from ("--perms", "0755", "--dir", str(parent))
        yield from ("--ro-bind", str(source), str(place))


def _system() -> Iterator[str]:
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))


def _etc(accounts: Mapping[str, Path], *, network: bool) -> Iterator[str]:
    yield from ("--perms", "0755", "--dir", "/etc")
    for path in (*_ETC, *(_ETC_NETWORK if network else ())):
        yield from ("--ro-bind-try", path, path)
    for name, path in accounts.items():
        yield from ("--ro-bind", str(path), f"/etc/{name}")


def tmp_bytes(limits: Limits) -> int:
    """Returns how much fits into a program's ``/tmp``, and into its ``/dev/shm``."""
    return max(_TMP_MIN_BYTES, min(limits.memory_bytes // 4, _TMP_MAX_BYTES))


def _in_parts(spec: str) -> dict[str, str]:
    """Returns the launcher's orders as environment variables.

    Arguments can be read by everyone on the machine, and the orders hold the program's environment, where people put
    secrets; an environment is read by its owner only. In parts, because Linux limits each string.
    """
    starts = range(0, len(spec), _PART)
    return {f"{_PART_NAME}{number}": spec[start : start + _PART] for number, start in enumerate(starts)}


def resource_limits(limits: Limits) -> dict[str, int]:
    """Returns what ``resource`` is to limit, by its names."""
    return {
        "RLIMIT_CORE": 0,
        "RLIMIT_DATA": limits.memory_bytes + DATA_SLACK_BYTES,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_NPROC": limits.processes,
    }


def _accounts(place: Confinement) -> Path:
    return place.work.with_name(place.work.name + ".etc")


def _give(directory: Path, uid: int) -> None:
    for parent, folders, files in os.walk(directory):
        os.chown(parent, uid, uid)
        for name in (*folders, *files):
            os.chown(Path(parent) / name, uid, uid, follow_symlinks=False)
