"""What confines a program: what all of a slot have alike, its seat, and what it becomes.

A slot that has a seat makes it once, for all of its programs; they find it as the first one did, or the slot ends
(``Seated``). Else each program, a child of a slot, makes its own. It ends as the sandbox of a program that is started
alone: the same mounts, no more rights. What is set once for the server and inherited is not done again: no new
privileges, no user namespaces, host name, cgroup namespace.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import errno
import fcntl
import os
import struct

from arcray.node.forks.frames import FrameError, Request, Seat

__all__ = ["PROGRAMS", "Seated", "become", "checked", "confine_slot", "libc", "rehearse_becoming", "take_seat"]

PROGRAMS = b"/dev/shm"

_NEW_MOUNTS, _NEW_IPC, _NEW_NETWORK = 0x20000, 0x8000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC = 1, 2, 4, 8, 32, 4096, 16384
_CAPABILITY_HEADER = array.array("I", [0x20080522, 0]).tobytes()  # version 3, of this process
_NO_HEADER = None  # with which it is refused
_NO_CAPABILITIES = bytes(24)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # numbers of every machine
_CLOSE_ON_EXEC, _CREATE = 1, 6
_OPEN_TO_ALL = (b"/tmp", PROGRAMS, b"/dev/pts")
_IPC_TABLES = (b"/proc/sysvipc/shm", b"/proc/sysvipc/sem", b"/proc/sysvipc/msg")
_TABLE_BYTES = 4096  # more than the heads, which is all that is there while there are no objects
# As bubblewrap does: what root could use, and some kernels let others write.
_READ_ONLY = tuple(filter(os.path.exists, (b"/proc/sys", b"/proc/sysrq-trigger", b"/proc/irq", b"/proc/bus")))
_PROC = _NOSUID | _NODEV | _NOEXEC
_MOUNTS = (
    (b"proc", b"/proc", b"proc", _PROC, None),
    *((place, place, None, _BIND | _REC, None) for place in _READ_ONLY),
    *((b"none", place, None, _REMOUNT | _BIND | _RDONLY | _PROC, None) for place in _READ_ONLY),
)

libc = ctypes.CDLL(None, use_errno=True)
_call_mount = libc.mount


def checked(result: int) -> None:
    """Raises OSError when a call of the C library has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def confine_slot(*, network: bool) -> None:
    """Puts around this process what its programs have alike.

    Args:
        network: whether that is the server's network; else they have none.
    """
    os.setsid()
    checked(libc.unshare(_NEW_MOUNTS | (0 if network else _NEW_NETWORK)))
    if not network:
        _raise_loopback()
    for arguments in _MOUNTS:
        _mount(*arguments)


def take_seat(seat: Seat, covered: tuple[bytes, ...]) -> None:
    """Puts around this process the directories of a seat, and what else no program shares with one of another.

    What is only covered by mounts, the directories of other programs and the server's /proc, is as good as not there:
    it takes a right to uncover it that no program has. To unmount it would be to wait for every processor.

    Args:
        covered: directories below ``/tmp`` that a program sees all the same: an interpreter may lie there.
    """
    checked(libc.unshare(_NEW_MOUNTS | _NEW_IPC))
    own = b"%b/%b" % (PROGRAMS, os.fsencode(seat.directory))
    _mount(own + b"/work", b"/sandbox/work", None, _BIND, None)  # without devices and set-user-id, as the place
    _mount(own + b"/results", b"/sandbox/results", None, _BIND, None)
    _mount(b"devpts", b"/dev/pts", b"devpts", _NOSUID | _NOEXEC, b"newinstance,ptmxmode=0666,mode=620")
    size = b"mode=1777,size=%d" % seat.tmp_bytes
    handles = [os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for place in covered]
    _mount(b"tmpfs", b"/tmp", b"tmpfs", _NOSUID | _NODEV, size)
    for place, handle in zip(covered, handles, strict=True):
        _make(place)
        _mount(b"/proc/self/fd/%d" % handle, place, None, _BIND | _REC, None)
        os.close(handle)
    _mount(b"tmpfs", PROGRAMS, b"tmpfs", _NOSUID | _NODEV, size)
    _replace(b"passwd", b"program:x:%d:%d::/sandbox/work:/usr/sbin/nologin\n" % (seat.uid, seat.uid))
    _replace(b"group", b"program:x:%d:\n" % seat.uid)


def become(uid: int) -> None:
    """Makes this process a user, and takes from it all rights."""
    os.setsid()  # a signal to its own process group must not reach the slot
    _change_user(uid)
    checked(libc.capset(_CAPABILITY_HEADER, _NO_CAPABILITIES))


def rehearse_becoming() -> None:
    """Does the same, but for what cannot be undone; see ``inside_program``."""
    _change_user(-1)  # nobody else
    libc.capset(_NO_HEADER, _NO_CAPABILITIES)


def _change_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Seated:
    """A seat that this process has taken, as it was before its first program.

    Its directories of root's cannot be changed by a program, which has no rights; what lies in them it can. Its work
    and result directories the node sees to.
    """

    def __init__(self, seat: Seat, covered: tuple[bytes, ...]) -> None:
        take_seat(seat, covered)
        self.seat = seat
        self._directories = [(place, os.listdir(place)) for place in _OPEN_TO_ALL]  # noqa: PTH208 - as below
        # They stay open, and with that tell of the IPC namespace of this process.
        self._tables = [os.open(place, os.O_RDONLY | os.O_CLOEXEC) for place in _IPC_TABLES]
        self._told = [os.pread(table, _TABLE_BYTES, 0) for table in self._tables]
        self._queues = _queues()

    def check(self, request: Request) -> None:
        """Raises FrameError where a program is to have another seat."""
        if request.seat != self.seat:
            raise FrameError("is for another seat")

    def is_as_it_was(self) -> bool:
        """Returns whether the programs so far have left nothing in it, as far as can be seen."""
        try:
            return (
                all(_holds(place, names) for place, names in self._directories)
                and all(
                    os.pread(each, _TABLE_BYTES, 0) == told for each, told in zip(self._tables, self._told, strict=True)
                )
                and (self._queues < 0 or _holds(self._queues, []))
            )
        except OSError:
            return False


def _holds(place: bytes | int, names: list[bytes]) -> bool:
    """Returns whether a directory has these names alone; looks at no more than one besides."""
    found = 0
    with os.scandir(place) as entries:
        for entry in entries:
            if os.fsencode(entry.name) not in names:
                return False
            found += 1
    return found == len(names)


def _queues() -> int:
    """Returns the directory of this IPC namespace's POSIX message queues, mounted nowhere; -1 where there are none."""
    context = libc.syscall(_FSOPEN, b"mqueue", _CLOSE_ON_EXEC)
    if context < 0 and ctypes.get_errno() == errno.ENODEV:
        return -1
    checked(context)
    checked(libc.syscall(_FSCONFIG, context, _CREATE, None, None, 0))
    mounted = libc.syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, 0)
    checked(mounted)
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    os.close(mounted)
    os.close(context)
    return directory


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    if _call_mount(source, target, kind, flags, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: mount on {target.decode()}")


def _make(place: bytes) -> None:
    """Makes a directory and all that it lies in."""
    end = place.find(b"/", len(b"/tmp/"))
    while end > 0:
        if not os.path.isdir(place[:end]):  # noqa: PTH112 - pathlib costs each start milliseconds
            os.mkdir(place[:end], 0o755)  # noqa: PTH102 - as above
        end = place.find(b"/", end + 1)
    if not os.path.isdir(place):  # noqa: PTH112 - as above
        os.mkdir(place, 0o755)  # noqa: PTH102 - as above


def _replace(name: bytes, text: bytes) -> None:
    """Puts a file of root's with these words over one of /etc. It lies in the program's /tmp, where it has no name."""
    own = b"/tmp/" + name
    file = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    os.write(file, text)
    os.close(file)
    _mount(own, b"/etc/" + name, None, _BIND, None)
    os.unlink(own)  # noqa: PTH108 - pathlib costs each start milliseconds


def _raise_loopback() -> None:
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(any_socket.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    any_socket.close()
