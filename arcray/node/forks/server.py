"""One fork server as the node sees it: started in its sandbox, asked over a socket, watched, ended.

A program's files come with a *token*, a byte in a pipe. Whoever takes it decides: the program's process, just before it
runs the program, or the node, which then starts the program in another way. So a program never runs twice, whatever
the server says or fails to say.
"""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError
from arcray.core.ports import Clock
from arcray.node.forks import frames
from arcray.node.forks.frames import Answer, FrameError, Request
from arcray.node.process import Child, Output, spawn_piped
from arcray.node.sandbox import Command

__all__ = ["BOOTSTRAP", "ForkServer", "Forked"]

_log = logging.getLogger(__name__)

_HERE: Final = Path(__file__).parent
BOOTSTRAP: Final = (_HERE / "inside_bootstrap.py").read_text(encoding="utf-8")
# In the order in which they import each other.
_MODULES: Final = {
    "arcray.node.launcher": _HERE.parent / "launcher.py",
    **{f"arcray.node.forks.{name}": _HERE / f"{name}.py"
       for name in ("frames", "inside_confinement", "inside_program", "inside_server")},
}  # fmt: skip
_SOURCES: Final = json.dumps({name: path.read_text(encoding="utf-8") for name, path in _MODULES.items()}).encode()
_KILLED: Final = 128 + signal.SIGKILL
_FILE: Final = struct.Struct("i")
_SENDER: Final = struct.Struct("3i")  # process, user, group; the kernel puts the number into our namespace
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_FILE.size) + socket.CMSG_SPACE(_SENDER.size)
_MAX_SAID: Final = 2_000  # characters of its own output that are logged at once


class Forked:
    """A program whose processes a fork server has made; as ``process.Child``.

    Args:
        token: the read end of its pipe; ours from now on.
    """

    def __init__(self, token: int) -> None:
        loop = asyncio.get_running_loop()
        self.there: asyncio.Future[bool] = loop.create_future()
        self._exit: asyncio.Future[int] = loop.create_future()
        self._pidfd = -1
        self._token = token
        self._unwanted = False
        self.pid = 0

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._exit.done()

    async def wait(self) -> int:
        """Returns its exit code once it has ended, and with it all that it started; 128 + n when signal n did it."""
        return await asyncio.shield(self._exit)

    def kill_group(self) -> None:
        """Kills it and all that it started, now or once we hear of it."""
        self._unwanted = True
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def called_off(self) -> bool:
        """Takes the token, where it is still there; returns whether the program has not begun, and never will."""
        try:
            return os.read(self._token, 1) != b""
        except BlockingIOError:
            return False

    @property
    def gone(self) -> bool:
        """Whether its first process has ended, which the server may not have said yet."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def is_there(self, pid: int, pidfd: int) -> None:
        """Notes its first process, whose pidfd is ours from now on."""
        self.pid, self._pidfd = pid, pidfd
        if self._unwanted:
            self.kill_group()
        if not self.there.done():
            self.there.set_result(True)

    def ended(self, code: int) -> None:
        """Notes how it ended."""
        if not self.there.done():
            self.there.set_result(False)
        if not self._exit.done():
            self._exit.set_result(code)

    def close(self) -> None:
        """Lets go of its files."""
        os.close(self._token)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class ForkServer:
    """A running fork server. Make one with ``start``."""

    def __init__(self, line: socket.socket, child: Child, output: Output, clock: Clock, answer_s: float) -> None:
        self._line = line
        self._child = child
        self._clock = clock
        self._answer_s = answer_s
        self._programs: dict[int, Forked] = {}
        self._number = 0
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._idle_since = clock.monotonic()
        self._tasks = [
            asyncio.create_task(output.pump(self._said), name="fork server output"),
            asyncio.create_task(self._watch(output), name="fork server"),
        ]
        self._serves = True
        asyncio.get_running_loop().add_reader(line.fileno(), self._read)

    @classmethod
    async def start(cls, command: Command, line: tuple[socket.socket, socket.socket], *, clock: Clock,
                    answer_s: float) -> ForkServer:  # fmt: skip
        """Starts one; returns once it serves.

        Args:
            line: our end, and the one that ``command`` names.
            answer_s: longest wait for any answer of it.

        Raises:
            UnavailableError: it cannot be started, or does not answer.
        """
        ours, its = line
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            child, output = await spawn_piped(command.argv, env=command.env, pass_fds=(its.fileno(),))
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
        server = cls(ours, child, output, clock, answer_s)
        try:
            ours.send(_SOURCES)
            async with asyncio.timeout(answer_s):
                serves = await server._ready
        except (TimeoutError, OSError) as error:
            await server.end()
            raise UnavailableError("a fork server did not answer") from error
        except BaseException:
            await server.end()
            raise
        if not serves:
            await server.end()
            raise UnavailableError("a fork server ended at once")
        return server

    @property
    def serves(self) -> bool:
        """Whether it can be asked."""
        return self._serves

    @property
    def busy(self) -> bool:
        """Whether a program of it runs."""
        return bool(self._programs)

    @property
    def idle_s(self) -> float:
        """For how long no program of it has run."""
        return 0.0 if self._programs else self._clock.monotonic() - self._idle_since

    async def fork(self, request: Request, files: Sequence[int]) -> Forked | None:
        """Has a program run; returns None if it does not run and never will.

        Args:
            request: its number is given by us.
            files: what it writes to, and what it reads if anything; not ours.
        """
        self._number = request.number = (self._number + 1) % 2**32
        data = request.encoded()
        if not self._serves or len(data) > frames.MAX_BYTES:
            return None
        token, full = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(full, b"x")
        os.close(full)
        program = Forked(token)
        sent = array.array("i", [files[0], token, *files[1:]]).tobytes()
        self._programs[request.number] = program
        try:
            self._line.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
            async with asyncio.timeout(self._answer_s):
                there = await asyncio.shield(program.there)
        except (TimeoutError, OSError):
            there = False
            self._serves = False  # the programs that it has made go on
        except asyncio.CancelledError:
            if program.called_off():
                self._forget(program, request.number)
            else:
                program.kill_group()
            raise
        if there or not program.called_off():
            return program
        self._forget(program, request.number)
        return None

    def _forget(self, program: Forked, number: int) -> None:
        self._programs.pop(number, None)
        program.close()

    def give_up(self) -> None:
        """Ends it, and with it the programs that it has made."""
        self._serves = False
        self._child.kill_group()

    async def retire(self) -> None:
        """Has it make no further programs, and ends it once those that it has made have ended."""
        self._serves = False
        await self._child.wait()
        await self.end()

    async def end(self) -> None:
        """Ends it and waits for its end."""
        self.give_up()
        await self._child.wait()
        self._close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _close(self) -> None:
        """Notes that it is gone, and with it its programs."""
        self._serves = False
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
        if not self._ready.done():
            self._ready.set_result(False)
        for program in self._programs.values():
            program.ended(_KILLED)
        self._programs.clear()

    async def _watch(self, output: Output) -> None:
        """Ends it where it does not tell ends that we see; waits for its own."""
        ended = asyncio.ensure_future(self._child.wait())
        late: set[Forked] = set()
        try:
            while not ended.done():
                sleeping = asyncio.ensure_future(self._clock.sleep(self._answer_s))
                await asyncio.wait({ended, sleeping}, return_when=asyncio.FIRST_COMPLETED)
                sleeping.cancel()
                if not self._serves and not self._programs:
                    self.give_up()
                gone = {each for each in self._programs.values() if each.pid and each.gone}
                if gone & late:
                    _log.warning("fork server does not answer, so it is ended", extra={"pid": self._child.pid})
                    self.give_up()
                late = gone
        finally:
            ended.cancel()
            output.close()
            self._close()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._line.recvmsg(64, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        pid, pidfd = 0, -1
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                (pidfd,) = _FILE.unpack(payload)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = _SENDER.unpack(payload)[0]
        try:
            self._take(Answer.decoded(data), pid, pidfd)
        except FrameError:  # an end of file among them
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self.give_up()

    def _take(self, answer: Answer, pid: int, pidfd: int) -> None:
        program = self._programs.get(answer.number)
        match answer.kind:
            case frames.READY:
                if not self._ready.done():
                    self._ready.set_result(True)
            case frames.FORKED:
                if program is not None:
                    program.is_there(pid, pidfd)
                else:  # called off
                    os.close(pidfd)
            case _:
                if program is not None:
                    del self._programs[answer.number]
                    self._idle_since = self._clock.monotonic()
                    program.ended(answer.code)

    async def _said(self, data: bytes) -> None:
        said = data.decode(errors="replace")[:_MAX_SAID]
        _log.warning("fork server says", extra={"pid": self._child.pid, "said": said})
