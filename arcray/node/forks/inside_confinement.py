"""The trusted part of a program's processes: its own namespaces, and the process that waits for it in them.

It ends as the sandbox of a program that is started alone: the same mounts, no more rights. What is set once for the
server and inherited is not done again: no new privileges, no user namespaces, host name, cgroup namespace.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import fcntl
import os
import struct

from arcray.node.forks.frames import Request

TYPE_CHECKING = False  # importing typing would be a fifth of what the server holds
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["PROGRAMS", "Confinement", "checked", "libc"]

PROGRAMS = "/dev/shm"  # noqa: S108 - where the server alone sees the directories of programs; its own is not needed
_WORK, _RESULTS = "/sandbox/work", "/sandbox/results"

_NEW_MOUNTS, _NEW_IPC, _NEW_NETWORK = 0x20000, 0x8000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_DETACH = 2
_CAPBSET_DROP = 24
_CAPABILITIES = (6, 7, 8, 12, 21)  # the server's: SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_ADMIN
_CAPABILITY_VERSION = 0x20080522
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
# As bubblewrap does: what root could use, and some kernels let others write.
_READ_ONLY = tuple(f"/proc/{name}" for name in ("sys", "sysrq-trigger", "irq", "bus"))

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    """Raises OSError when a call of the C library has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Confinement:
    """One program's namespaces."""

    def __init__(self, request: Request, *, network: bool) -> None:
        self._request = request
        self._network = network

    def enter(self) -> None:
        """Makes them around this process, which is the first of a process namespace; returns in its only child.

        The child may still become another user, and has no other right that root has.
        """
        checked(libc.unshare(_NEW_MOUNTS | _NEW_IPC | (0 if self._network else _NEW_NETWORK)))
        os.setsid()  # a signal to its own process group must reach no other program
        if not self._network:
            _raise_loopback()
        self._mount()
        for capability in _CAPABILITIES:
            checked(libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0))
        program = os.fork()
        if program:
            _wait(program)
        os.setsid()
        uid = self._request.uid
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    def _mount(self) -> None:
        """Puts the program's own directories in place, and removes from sight all that is not its own."""
        own = f"{PROGRAMS}/{self._request.directory}"
        _mount(f"{own}/work", _WORK, flags=_BIND)
        _mount(f"{own}/results", _RESULTS, flags=_BIND)
        _remount(_WORK, _NOSUID | _NODEV)
        _remount(_RESULTS, _NOSUID | _NODEV)
        for place in (PROGRAMS, "/proc"):
            checked(libc.umount2(place.encode(), _DETACH))
        _mount("proc", "/proc", kind="proc", flags=_NOSUID | _NODEV | _NOEXEC)
        for place in filter(os.path.exists, _READ_ONLY):
            _mount(place, place, flags=_BIND | _REC)
            _remount(place, _RDONLY | _NOSUID | _NODEV | _NOEXEC)
        _mount("devpts", "/dev/pts", kind="devpts", flags=_NOSUID | _NOEXEC, data="newinstance,ptmxmode=0666,mode=620")
        size = f"mode=1777,size={self._request.tmp_bytes}"
        for place in ("/tmp", PROGRAMS):  # noqa: S108
            _mount("tmpfs", place, kind="tmpfs", flags=_NOSUID | _NODEV, data=size)
        uid = self._request.uid
        _replace("/etc/passwd", f"program:x:{uid}:{uid}::{_WORK}:/usr/sbin/nologin\n")
        _replace("/etc/group", f"program:x:{uid}:\n")


def _mount(source: str, target: str, *, kind: str = "", flags: int, data: str = "") -> None:
    checked(libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None))


def _remount(target: str, flags: int) -> None:
    _mount("none", target, flags=_REMOUNT | _BIND | flags)


def _replace(path: str, text: str) -> None:
    """Puts a file of these words over an existing one. It lies in the program's own /tmp, where it has no name."""
    own = f"/tmp/{os.path.basename(path)}"  # noqa: S108, PTH119 - pathlib costs each start milliseconds
    file = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.fchmod(file, 0o644)
    os.write(file, text.encode())
    os.close(file)
    _mount(own, path, flags=_BIND)
    _remount(path, _RDONLY | _NOSUID | _NODEV)
    os.unlink(own)  # noqa: PTH108


def _raise_loopback() -> None:
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    any_socket.close()


def _wait(program: int) -> NoReturn:
    """Waits for the program and for all that it leaves behind, and ends as it did, and with it whatever is left."""
    os.closerange(0, 65_536)  # who reads what the program writes must see its end
    header = array.array("I", [_CAPABILITY_VERSION, 0]).tobytes()
    libc.capset(header, bytes(24))
    while True:
        ended, status = os.wait()
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
