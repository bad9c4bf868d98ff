"""The fork server itself: root inside a sandbox of its own, one process, one thread. It runs no program's code.

What it makes are *slots*. A slot is the first process of a process namespace, in a network namespace of its own, and
runs programs, one at a time: it forks a child, which confines itself (``inside_confinement``) and becomes the program,
and once that has ended it kills and awaits whatever else is left in the namespace. So what two programs that run at the
same time have in common is their owner, and what two that follow each other have is numbers of processes and ports;
and, where the slot has a seat, its directories, user and mounts, as long as each leaves them as they were.

Its source, like that of all modules ``inside_*``, is sent to it: it needs no file of ours inside the sandbox.
"""

from __future__ import annotations

import _socket
import array
import gc
import os
import signal
import sys

from arcray.node.forks.frames import ENDED, LAST, MADE, MAX_BYTES, NO_SEAT, READY, Answer, FrameError, Request, Seat
from arcray.node.forks.inside_confinement import Seated, become, checked, confine_slot, libc, take_seat
from arcray.node.forks.inside_program import Interpreter, Program
from arcray.node.launcher import deny_calls, leave_keyring

__all__ = ["main"]

_CLONE_NEWPID = 0x20000000
_MAX_FILES = 3
_MAX_SEAT = 1024  # bytes
_REHEARSALS = 20  # an interpreter specializes code after some 16 times


class _Slot:
    """This process, as one that runs programs."""

    def __init__(
        self, line: _socket.socket, interpreter: Interpreter, covered: tuple[bytes, ...], seat: Seat | None
    ) -> None:
        self._line = line
        self._interpreter = interpreter
        self._covered = covered
        self._seated = Seated(seat, covered) if seat is not None else None
        self._asked = bytearray(MAX_BYTES)

    def serve(self) -> Program:
        """Runs programs for as long as there is a node; returns one of them in the process that is to run it."""
        while True:
            size, files = _receive(self._line, self._asked)
            if not size:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                return self._become(bytes(self._asked[:size]), files)
            self._asked[:size] = bytes(size)  # the next program, a fork too, could read the variables of this one here
            for file in files:
                os.close(file)
            code = _ended(pid)
            if self._seated is not None and not self._seated.is_as_it_was():
                self._line.send(Answer(LAST, code).encoded())
                os._exit(0)
            self._line.send(Answer(ENDED, code).encoded())

    def _become(self, asked: bytes, files: list[int]) -> Program:
        """Confines this process, which is to run a program. Only here is read what is asked, for the same reason."""
        try:
            request = Request.decoded(asked)
            if self._seated is None:
                take_seat(request.seat, self._covered)
            else:
                self._seated.check(request)
            become(request.uid)
            program = Program(self._interpreter)
            program.begin(request, files, self._line)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of it may go on as the slot
            _say(f"cannot confine a program: {error!r}")
            os._exit(1)
        return program


def _ended(program: int) -> int:
    """Returns how a program has ended, once it and all that is left of it have: nothing here is not below us."""
    code = 0
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code if code >= 0 else 128 - code
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            try:  # noqa: SIM105 - contextlib is one more thing that each fork copies
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass


class _Server:
    def __init__(
        self, line: _socket.socket, interpreter: Interpreter, *, network: bool, covered: tuple[bytes, ...]
    ) -> None:
        self._line = line
        self._interpreter = interpreter
        self._network = network
        self._covered = covered
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> Program | None:
        """Makes slots until the node is gone; returns a program in a process that is to run it, else None."""
        self._line.send(Answer(READY).encoded())
        asked = bytearray(_MAX_SEAT)
        while True:
            size, files = _receive(self._line, asked)
            if not size:
                return None
            if len(files) != 1:
                raise FrameError("a server is asked for slots alone")
            seat = None if bytes(asked[:size]) == NO_SEAT else Seat.decoded(bytes(asked[:size]))
            checked(libc.unshare(_CLONE_NEWPID))  # of the children to come
            pid = os.fork()
            if pid == 0:
                self._line.close()
                os.close(self._own)
                confine_slot(network=self._network)
                return _Slot(_socket.socket(fileno=files[0]), self._interpreter, self._covered, seat).serve()
            checked(libc.setns(self._own, _CLONE_NEWPID))
            os.close(files[0])
            self._tell(pid)
            while os.waitpid(-1, os.WNOHANG)[0]:  # slots that have ended
                pass

    def _tell(self, slot: int) -> None:
        """Hands the node a pidfd of a slot; its number the kernel puts into the node's own namespace."""
        handle = os.pidfd_open(slot)
        ancillary = [
            (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [handle]).tobytes()),
            (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, array.array("i", [slot, 0, 0]).tobytes()),
        ]
        self._line.sendmsg([Answer(MADE).encoded()], ancillary)
        os.close(handle)


def _receive(line: _socket.socket, asked: bytearray) -> tuple[int, list[int]]:
    """Writes a datagram over what was asked before; returns its size, 0 when the other end is gone, and its files."""
    size, ancillary, _, _ = line.recvmsg_into([asked], _socket.CMSG_SPACE(_MAX_FILES * 4), _socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            files.frombytes(payload[: len(payload) // files.itemsize * files.itemsize])
    return size, files.tolist()


def _say(text: str) -> None:
    """Tells the node's log."""
    os.write(2, f"{text}\n".encode())


def _rehearse(interpreter: Interpreter) -> None:
    """Has everything that a fork does be done before, so that it is done from then on the same way; leaves no trace."""
    modules, argv, orig_argv, path = dict(sys.modules), sys.argv, sys.orig_argv, sys.path[0]
    source, further = "/tmp/rehearsal.py", "REHEARSAL"  # noqa: S108 - of this sandbox, and no program's
    file = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(file, b"pass")
    os.close(file)
    request = Request(
        directory="rehearsal",
        entry=source,
        args=[],
        env={**os.environ, further: ""},
        limits={"RLIMIT_CORE": 0},
        uid=1,
        tmp_bytes=0,
        archive=False,
        reads=False,
    )
    for _ in range(_REHEARSALS):
        Program(interpreter).rehearse(request)
        del os.environ[further]
        sys.modules.update(modules)
    sys.argv, sys.orig_argv, sys.path[0] = argv, orig_argv, path
    os.unlink(source)  # noqa: PTH108 - pathlib costs each start milliseconds


def main(line: _socket.socket, *, early: frozenset[str], network: bool, covered: list[str]) -> Program | None:
    """Serves; returns as ``_Server.serve``.

    Args:
        early: the modules that the interpreter had loaded before it ran anything.
        network: whether programs share the network of the server.
        covered: directories below ``/tmp`` that programs see all the same.
    """
    leave_keyring(libc)
    deny_calls(libc)  # bubblewrap has denied new privileges already
    interpreter = Interpreter(early)
    _rehearse(interpreter)
    interpreter.hide()
    os.umask(0o022)
    server = _Server(line, interpreter, network=network, covered=tuple(map(os.fsencode, covered)))
    gc.collect()
    if hasattr(libc, "malloc_trim"):  # of glibc
        libc.malloc_trim(0)  # what compiling all of this took: each fork would have its pages listed anew
    gc.freeze()  # or the first collection of each child would write to, and so copy, all of it
    gc.disable()
    return server.serve()
