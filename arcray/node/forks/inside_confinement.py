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

__all__ = ["PROGRAMS", "Confinement", "Networks", "checked", "libc"]

PROGRAMS = b"/dev/shm"  # noqa: S108 - where the server alone sees the directories of programs; its own is not needed

_NEW_MOUNTS, _NEW_IPC, _NEW_NETWORK = 0x20000, 0x8000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_CAPABILITY_HEADER = array.array("I", [0x20080522, 0]).tobytes()  # version 3, of this process
_NO_CAPABILITIES = bytes(24)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
# As bubblewrap does: what root could use, and some kernels let others write.
_READ_ONLY = tuple(filter(os.path.exists, (b"/proc/sys", b"/proc/sysrq-trigger", b"/proc/irq", b"/proc/bus")))
_PROC = _NOSUID | _NODEV | _NOEXEC
_MOUNTS = (
    (b"proc", b"/proc", b"proc", _PROC, None),
    *((place, place, None, _BIND | _REC, None) for place in _READ_ONLY),
    *((b"none", place, None, _REMOUNT | _BIND | _RDONLY | _PROC, None) for place in _READ_ONLY),
    (b"devpts", b"/dev/pts", b"devpts", _NOSUID | _NOEXEC, b"newinstance,ptmxmode=0666,mode=620"),
)

libc = ctypes.CDLL(None, use_errno=True)
_call_mount = libc.mount


def checked(result: int) -> None:
    """Raises OSError when a call of the C library has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Networks:
    """Namespaces without a network, one for each program that runs.

    One is made in two milliseconds, so it is used again: once every process of a program has ended, nothing of it is
    left in there, for it had no right to change anything. Programs of another owner have another server.
    """

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._free: list[int] = []

    def take(self) -> int:
        """Returns one that no program is in, by an open file."""
        if self._free:
            return self._free.pop()
        checked(libc.unshare(_NEW_NETWORK))
        try:
            _raise_loopback()
            return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            checked(libc.setns(self._own, _NEW_NETWORK))

    def give_back(self, network: int) -> None:
        """Takes back one whose program has ended."""
        self._free.append(network)


class Confinement:
    """One program's namespaces.

    Args:
        network: an open file of the namespace that it joins; None leaves it in the server's.
    """

    def __init__(self, request: Request, network: int | None) -> None:
        self._request = request
        self._network = network

    def enter(self) -> None:
        """Makes them around a child of this process, which is the first of a process namespace; returns in the child.

        This one then waits for the child and does as little as it can, for what it writes to has to be copied. It stays
        in the server's other namespaces, of which its number 1 is no way for the child: it is root's. It has no rights.
        """
        program = os.fork()
        if program:
            _wait(program)
        os.setsid()  # a signal to its own process group must reach no other program
        if self._network is not None:
            checked(libc.setns(self._network, _NEW_NETWORK))
        checked(libc.unshare(_NEW_MOUNTS | _NEW_IPC))
        self._mount()
        uid = self._request.uid
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _drop_rights()

    def _mount(self) -> None:
        """Puts the program's own directories in place, and removes from sight all that is not its own.

        What is only covered, the directories of other programs and the server's /proc, is as good as not there: it
        takes a right to uncover it that no program has. To unmount it would be to wait for every processor.
        """
        own = b"%b/%b" % (PROGRAMS, os.fsencode(self._request.directory))
        _mount(own + b"/work", b"/sandbox/work", None, _BIND, None)  # without devices and set-user-id, as the place
        _mount(own + b"/results", b"/sandbox/results", None, _BIND, None)
        for arguments in _MOUNTS:
            _mount(*arguments)
        size = b"mode=1777,size=%d" % self._request.tmp_bytes
        _mount(b"tmpfs", b"/tmp", b"tmpfs", _NOSUID | _NODEV, size)
        _mount(b"tmpfs", PROGRAMS, b"tmpfs", _NOSUID | _NODEV, size)
        uid = self._request.uid
        _replace(b"passwd", b"program:x:%d:%d::/sandbox/work:/usr/sbin/nologin\n" % (uid, uid))
        _replace(b"group", b"program:x:%d:\n" % uid)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    if _call_mount(source, target, kind, flags, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: mount on {target.decode()}")


def _replace(name: bytes, text: bytes) -> None:
    """Puts a file of root's with these words over one of /etc. It lies in the program's /tmp, where it has no name."""
    own = b"/tmp/" + name  # noqa: S108
    file = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(file, text)
    os.close(file)
    _mount(own, b"/etc/" + name, None, _BIND, None)
    os.unlink(own)  # noqa: PTH108 - pathlib costs each start milliseconds


def _raise_loopback() -> None:
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    any_socket.close()


def _drop_rights() -> None:
    checked(libc.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES))


def _wait(program: int) -> NoReturn:
    """Waits for the program and for all that it leaves behind, and ends as it did, and with it whatever is left."""
    os.setsid()
    os.closerange(0, 65_536)  # who reads what the program writes must see its end
    _drop_rights()
    while True:
        ended, status = os.wait()
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
