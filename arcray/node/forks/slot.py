"""One slot of a fork server as the node sees it, and the program that runs in it.

A program's files come with a *token*, a byte in a pipe. Whoever takes it decides: the program's process, just before it
runs the program, or the node, which then starts the program in another way. So a program never runs twice, whatever
a slot says or fails to say.
"""

from __future__ import annotations

import array
import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from arcray.node.forks import frames
from arcray.node.forks.frames import Answer, FrameError, Seat

__all__ = ["Forked", "Slot"]

_KILLED: Final = 128 + signal.SIGKILL


class Slot:
    """A process that runs programs, one at a time, as its children.

    Args:
        line: our end of its line; ours alone.
        pid: its number, which is that of the first process of each of its programs.
        pidfd: of it; ours from now on.
        seat: of all its programs; None where each has its own.
        idle: told when its program has ended and it could run another one.
        gone: told when it has ended.
    """

    def __init__(
        self,
        line: socket.socket,
        pid: int,
        pidfd: int,
        *,
        seat: Seat | None,
        idle: Callable[[Slot], None],
        gone: Callable[[Slot], None],
    ) -> None:
        self.pid = pid
        self.seat = seat
        self.program: Forked | None = None
        self._line = line
        self._pidfd = pidfd
        self._idle = idle
        self._gone = gone
        self._dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False
        asyncio.get_running_loop().add_reader(line.fileno(), self._read)

    def run(self, request: bytes, files: Sequence[int], answer_s: float) -> Forked:
        """Has it run a program.

        Args:
            files: what the program writes to, and what it reads if anything; not ours.
            answer_s: after so long a program that has not begun is called off.

        Raises:
            OSError: it takes nothing; the program will not run.
        """
        token, full = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(full, b"x")
        os.close(full)
        sent = array.array("i", [files[0], token, *files[1:]]).tobytes()
        try:
            self._line.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        except OSError:
            os.close(token)
            raise
        self.program = Forked(self, token, answer_s)
        return self.program

    def kill(self) -> None:
        """Kills it, and its program with it."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Ends it. It is gone, and its program has ended, once the kernel says so: see ``wait``."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._line.fileno())
        self._line.close()
        loop.add_reader(self._pidfd, self._die)

    async def wait(self) -> None:
        """Returns once it has ended, and with it all processes of its namespace."""
        await asyncio.shield(self._dead)

    def _die(self) -> None:
        """Notes that it is gone.

        A process closes its files before the namespace that it is the first of is emptied, so the end of the line tells
        too early: what the program left would still write to directories in which the node reads and removes as root.
        """
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        if self.program is not None:
            self.program.ended(_KILLED)
            self.program = None
        self._dead.set_result(None)
        self._gone(self)

    def _read(self) -> None:
        try:
            answer = Answer.decoded(self._line.recv(64))
        except BlockingIOError:
            return
        except (OSError, FrameError):  # an end of file among them
            self.close()
            return
        if answer.kind not in (frames.ENDED, frames.LAST) or self.program is None:
            self.close()
            return
        program, self.program = self.program, None
        program.ended(answer.code)
        if answer.kind == frames.LAST:
            self.close()
        else:
            self._idle(self)


class Forked:
    """A program in a slot; as ``process.Child``. Its number is that of the slot, below which all its processes are."""

    def __init__(self, slot: Slot, token: int, answer_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.pid = slot.pid
        self._slot = slot
        self._exit: asyncio.Future[int] = loop.create_future()
        self._token = token
        self._called_off = False
        self._late = loop.call_later(answer_s, self._call_off)

    @property
    def exited(self) -> bool:
        """Whether it has ended, and with it all that it started."""
        return self._exit.done()

    async def wait(self) -> int:
        """Returns its exit code once it has ended, and with it all that it started; 128 + n when signal n did it."""
        return await asyncio.shield(self._exit)

    def kill_group(self) -> None:
        """Kills it and all that it started."""
        if not self.exited:
            self._slot.kill()

    def close(self) -> bool:
        """Lets go of one that has ended; returns whether it ran, at least in part. One that did not never will."""
        self._late.cancel()
        if not self._called_off:
            self._called_off = self._takes_token()
        os.close(self._token)
        return not self._called_off

    def ended(self, code: int) -> None:
        """Notes how it ended."""
        if not self._exit.done():
            self._exit.set_result(code)

    def _call_off(self) -> None:
        """Takes its start from a slot that is too late with it, and ends the slot."""
        if self._takes_token():
            self._called_off = True
            self._slot.kill()

    def _takes_token(self) -> bool:
        try:
            return os.read(self._token, 1) != b""
        except BlockingIOError:
            return False
