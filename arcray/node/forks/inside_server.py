"""The fork server itself: root inside a sandbox of its own, one process, one thread. It runs no program's code.

For each request it forks a child that becomes the first process of a new process namespace and confines itself
(``inside_confinement``). What the server holds is little, because each fork copies it.

Its source, like that of all modules ``inside_*``, is sent to it: it needs no file of ours inside the sandbox.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import gc
import os
import select

from arcray.node.forks.frames import ENDED, FORKED, MAX_BYTES, READY, REFUSED, Answer, Request
from arcray.node.forks.inside_confinement import Confinement, Networks, checked, libc
from arcray.node.forks.inside_program import Interpreter, Program
from arcray.node.launcher import deny_user_namespaces

__all__ = ["main"]

_CLONE_NEWPID = 0x20000000
_MAX_FILES = 3


class _Server:
    def __init__(self, line: _socket.socket, interpreter: Interpreter, *, network: bool) -> None:
        self._line = line
        self._networks = None if network else Networks()
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(line.fileno(), select.POLLIN)
        # By pidfd: process, number of the request, and its network if it has one of its own.
        self._children: dict[int, tuple[int, int, int | None]] = {}
        self._interpreter = interpreter

    def serve(self) -> Program | None:
        """Serves until the node is gone; returns a program in the process that is to run it, else None."""
        self._line.send(Answer(READY).encoded())
        adopted = False
        while True:
            for handle, _ in self._poll.poll():
                if handle in self._children:
                    self._reap(handle)
                    continue
                data, files = self._receive()
                if not data:
                    return None
                request = Request.decoded(data)
                if not adopted:
                    self._interpreter.adopt_environment(request.env)
                    adopted = True
                program = self._fork(request, files)
                if program is not None:
                    return program

    def _receive(self) -> tuple[bytes, list[int]]:
        space = _socket.CMSG_SPACE(_MAX_FILES * 4)
        data, ancillary, _, _ = self._line.recvmsg(MAX_BYTES, space, _socket.MSG_CMSG_CLOEXEC)
        files = array.array("i")
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                files.frombytes(payload[: len(payload) // files.itemsize * files.itemsize])
        return data, files.tolist()

    def _fork(self, request: Request, files: list[int]) -> Program | None:
        """Makes a program's processes; returns it in the process that is to run it, None in the server."""
        pid, network = -1, None
        try:
            network = self._networks.take() if self._networks is not None else None
            checked(libc.unshare(_CLONE_NEWPID))  # of the children to come
            pid = os.fork()
        except OSError as error:
            _say(f"cannot fork: {error}")
        if pid == 0:
            return self._become(request, files, network)
        checked(libc.setns(self._own, _CLONE_NEWPID))
        for file in files:
            os.close(file)
        if pid < 0:
            self._line.send(Answer(REFUSED, request.number).encoded())
            return None
        handle = os.pidfd_open(pid)
        self._children[handle] = pid, request.number, network
        self._poll.register(handle, select.POLLIN)
        ancillary = [
            (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [handle]).tobytes()),
            (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS, array.array("i", [pid, 0, 0]).tobytes()),
        ]
        self._line.sendmsg([Answer(FORKED, request.number).encoded()], ancillary)
        return None

    def _become(self, request: Request, files: list[int], network: int | None) -> Program:
        """Confines this process, the first of a new namespace; returns in the second one."""
        try:
            Confinement(request, network).enter()
            return Program(self._interpreter, request, files, self._line)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of it may go on as the server
            _say(f"cannot confine a program: {error!r}")
            os._exit(1)

    def _reap(self, handle: int) -> None:
        pid, number, network = self._children.pop(handle)
        self._poll.unregister(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)  # by now nothing is left in its process namespace
        if self._networks is not None and network is not None:
            self._networks.give_back(network)
        code = os.waitstatus_to_exitcode(status)
        self._line.send(Answer(ENDED, number, code if code >= 0 else 128 - code).encoded())


def _say(text: str) -> None:
    """Tells the node's log."""
    os.write(2, f"{text}\n".encode())


def main(line: _socket.socket, *, early: frozenset[str], network: bool) -> Program | None:
    """Serves; returns as ``_Server.serve``.

    Args:
        early: the modules that the interpreter had loaded before it ran anything.
        network: whether programs share the network of the server.
    """
    os.umask(0o022)
    deny_user_namespaces(ctypes.CDLL(None, use_errno=True))  # bubblewrap has denied new privileges already
    server = _Server(line, Interpreter(early), network=network)
    gc.collect()
    gc.freeze()  # or the first collection of each child would write to, and so copy, all of it
    gc.disable()
    return server.serve()
