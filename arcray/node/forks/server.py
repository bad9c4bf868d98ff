"""One fork server as the node sees it: started in its sandbox, asked for slots, ended."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError
from arcray.core.ports import Clock
from arcray.node.forks import frames
from arcray.node.forks.frames import Answer, FrameError, Request, Seat
from arcray.node.forks.slot import Forked, Slot
from arcray.node.process import Child, Output, spawn_piped
from arcray.node.sandbox import Command

__all__ = ["BOOTSTRAP", "ForkServer", "line"]

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
_FILE: Final = struct.Struct("i")
_SENDER: Final = struct.Struct("3i")  # process, user, group; the kernel puts the number into our namespace
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_FILE.size) + socket.CMSG_SPACE(_SENDER.size)
_LINE_BYTES: Final = 1 << 20
_MAX_IDLE_SLOTS: Final = 32
_MAX_SAID: Final = 2_000  # characters of its own output that are logged at once


def line() -> tuple[socket.socket, socket.socket]:
    """Returns our end of a new line, and the other one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, its):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LINE_BYTES)
    ours.settimeout(0)
    return ours, its


class ForkServer:
    """A running fork server. Make one with ``start``."""

    def __init__(self, ours: socket.socket, child: Child, output: Output, clock: Clock, answer_s: float) -> None:
        self._line = ours
        self._child = child
        self._clock = clock
        self._answer_s = answer_s
        self._slots: set[Slot] = set()
        self._free: list[Slot] = []
        self._ordered: deque[tuple[socket.socket, Seat | None, asyncio.Future[bool]]] = deque()
        self._ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._idle_since = clock.monotonic()
        self._serves = True
        self._tasks = (
            asyncio.create_task(output.pump(self._said), name="fork server output"),
            asyncio.create_task(self._watch(output), name="fork server"),
        )
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    @classmethod
    async def start(
        cls, command: Command, ends: tuple[socket.socket, socket.socket], *, clock: Clock, answer_s: float
    ) -> ForkServer:
        """Starts one; returns once it serves.

        Args:
            ends: of a line: ours, and the one that ``command`` names.
            answer_s: longest wait for any answer of it.

        Raises:
            UnavailableError: it cannot be started, or does not answer.
        """
        ours, its = ends
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with its:
            child, output = await spawn_piped(command.argv, env=command.env, pass_fds=(its.fileno(),))
        server = cls(ours, child, output, clock, answer_s)
        serves = False
        try:
            ours.send(_SOURCES)
            async with asyncio.timeout(answer_s):
                serves = await server._ready
        except (TimeoutError, OSError) as error:
            raise UnavailableError("a fork server did not answer") from error
        finally:
            if not serves:
                await server.end()
        if not serves:
            raise UnavailableError("a fork server ended at once")
        return server

    @property
    def serves(self) -> bool:
        """Whether it can be asked."""
        return self._serves

    @property
    def busy(self) -> bool:
        """Whether a program of it runs."""
        return len(self._free) < len(self._slots) or bool(self._ordered)

    @property
    def idle_s(self) -> float:
        """For how long no program of it has run."""
        return 0.0 if self.busy else self._clock.monotonic() - self._idle_since

    async def fork(self, request: Request, files: Sequence[int], *, stays: bool) -> Forked | None:
        """Has a program run; returns None if it does not run and never will.

        Args:
            files: what it writes to, and what it reads if anything; not ours.
            stays: whether programs to come have the same seat, unless it is left.
        """
        data = request.encoded()
        if len(data) > frames.MAX_BYTES:
            return None
        seat = request.seat if stays else None
        while self._serves:
            slot = self._take_free(seat)
            if slot is None and not await self._made(seat):
                return None
            if slot is not None:  # else it is there now, unless another program took it
                try:
                    return slot.run(data, files, self._answer_s)
                except OSError:
                    slot.close()
        return None

    def leave(self, directory: str) -> None:
        """Makes no further use of a seat, whose directory is removed."""
        for slot in tuple(self._free):
            if slot.seat is not None and slot.seat.directory == directory:
                self._free.remove(slot)
                slot.close()

    def retire(self) -> None:
        """Has it make no further programs, and ends it once those that it has made have ended."""
        self._serves = False
        if not self.busy:
            self._child.kill_group()

    async def end(self) -> None:
        """Ends it, and with it its programs; waits for the end of all of them."""
        self._serves = False
        self._child.kill_group()
        await self._child.wait()
        self._close()
        for slot in tuple(self._slots):
            await slot.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take_free(self, seat: Seat | None) -> Slot | None:
        """Returns a slot of this seat that is free, and is so no more."""
        for slot in reversed(self._free):
            if slot.seat == seat:
                self._free.remove(slot)
                return slot
        return None

    async def _made(self, seat: Seat | None) -> bool:
        """Asks for one more slot; returns whether it came."""
        ours, its = line()
        made: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ordered.append((ours, seat, made))
        try:
            with its:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FILE.pack(its.fileno()))]
                self._line.sendmsg([frames.NO_SEAT if seat is None else seat.encoded()], ancillary)
            async with asyncio.timeout(self._answer_s):
                return await made
        except (TimeoutError, OSError):
            self._give_up()
            return False

    def _give_up(self) -> None:
        """Makes no further use of a server that fails; its programs go on."""
        _log.warning("fork server does not answer", extra={"pid": self._child.pid})
        while self._ordered:
            ours, _, made = self._ordered.popleft()
            ours.close()
            if not made.done():
                made.set_result(False)
        self.retire()

    def _close(self) -> None:
        """Notes that it is gone, and with it its programs."""
        self._serves = False
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
        if not self._ready.done():
            self._ready.set_result(False)
        while self._ordered:
            ours, _, made = self._ordered.popleft()
            ours.close()
            if not made.done():
                made.set_result(False)
        for slot in tuple(self._slots):
            slot.close()

    async def _watch(self, output: Output) -> None:
        await self._child.wait()
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
            answer = Answer.decoded(data)
        except FrameError:  # an end of file among them
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._child.kill_group()
            return
        if answer.kind == frames.READY and not self._ready.done():
            self._ready.set_result(True)
        elif answer.kind == frames.MADE and pidfd >= 0:
            self._take(pid, pidfd)

    def _take(self, pid: int, pidfd: int) -> None:
        if not self._ordered:  # given up; with its line closed it ends
            os.close(pidfd)
            return
        ours, seat, made = self._ordered.popleft()
        slot = Slot(ours, pid, pidfd, seat=seat, idle=self._is_idle, gone=self._is_gone)
        self._slots.add(slot)
        self._free.append(slot)
        if not made.done():
            made.set_result(True)

    def _is_idle(self, slot: Slot) -> None:
        self._idle_since = self._clock.monotonic()
        if not self._serves:
            slot.close()
            return
        self._free.append(slot)
        if len(self._free) > _MAX_IDLE_SLOTS:
            self._free.pop(0).close()  # was not wanted for longest

    def _is_gone(self, slot: Slot) -> None:
        self._slots.discard(slot)
        if slot in self._free:
            self._free.remove(slot)
        if not self._serves and not self.busy:
            self._child.kill_group()

    async def _said(self, data: bytes) -> None:
        said = data.decode(errors="replace")[:_MAX_SAID]
        _log.warning("fork server says", extra={"pid": self._child.pid, "said": said})
