"""A scheduler in a process of its own, without Ray, that dies where a test wants it to. Run as a module.

Everything that keeps a promise is the real thing: plane, journal on a file, switchboard, lines. What Ray does for the
scheduler actor (start it, tell where its line is, start it again) the test does, through ``MortalScheduler``.

The process that is started imports and then forks a scheduler per line that it reads, because a start takes 0.9 s and a
fork 10 ms, and a round of kills starts several. Its standard output tells of them, a JSON object per line.
"""

from __future__ import annotations

import asyncio
import json
import os
import pkgutil
import select
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import uvloop

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal, Records
from arcray.drivers.line import LineDriver
from arcray.runtime.line import Line, LineAddress, LineServer, Receiver
from arcray.runtime.policy import policy_of
from arcray.runtime.switchboard import Outlet, Switchboard
from arcray.testing.faults import FailPoints
from arcray.testing.simulation.build import Build
from arcray.wire.system import SystemClock

__all__ = ["HERE", "Kill", "KillPoint", "address_of", "main"]

HERE: Final = "here"
"""The Ray node that everybody is on."""

_HEADER: Final = 4


class KillPoint(StrEnum):
    """Where a scheduler dies."""

    TIME = "time"  # wherever it is by then, so many milliseconds after it was started; killed from outside
    STEP = "step"  # before or after a statement or a commit of the journal, those of opening and recovery included
    APPLIED = "applied"  # what a client said is applied to memory and not committed
    COMMITTED = "committed"  # a batch is on disk, and nobody has been told
    SAYING = "saying"  # half of a frame to a client is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When a scheduler dies.

    Args:
        count: at which time that it comes by the point, from 1; milliseconds for ``TIME``.
    """

    point: KillPoint
    count: int

    def __str__(self) -> str:
        return f"{self.point}:{self.count}"


class _Countdown:
    """Kills this process at the given passage of the given point."""

    def __init__(self, kill: Kill | None) -> None:
        self._kill = kill
        self._passed = 0

    def due(self, point: KillPoint) -> bool:
        """Counts a passage; returns whether it is the last."""
        if self._kill is None or self._kill.point is not point:
            return False
        self._passed += 1
        return self._passed == self._kill.count

    def passed(self, point: KillPoint) -> None:
        """Counts a passage, and dies if it is the last."""
        if self.due(point):
            _die()


class _MortalOutlet:
    """A line to a client; one of its frames may be the last half thing that the process says."""

    def __init__(self, line: Line, countdown: _Countdown) -> None:
        self._line = line
        self._countdown = countdown

    @property
    def full(self) -> bool:
        return self._line.full

    def send(self, frame: bytes) -> None:
        if self._countdown.due(KillPoint.SAYING):
            whole = len(frame).to_bytes(_HEADER, "little") + frame
            assert self._line._transport is not None  # noqa: SLF001 - half a frame is below every interface
            self._line._transport.write(whole[: len(whole) // 2])  # noqa: SLF001
            _die()
        self._line.send(frame)

    def close(self) -> None:
        self._line.close()


class _MortalReceiver:
    """The scheduler's end of a line; it may die once it has acted on a frame."""

    def __init__(self, receiver: Receiver, countdown: _Countdown) -> None:
        self._receiver = receiver
        self._countdown = countdown

    def on_frame(self, frame: bytes) -> None:
        self._receiver.on_frame(frame)
        self._countdown.passed(KillPoint.APPLIED)

    def on_room(self) -> None:
        self._receiver.on_room()

    def on_lost(self, reason: str) -> None:
        self._receiver.on_lost(reason)


def _mortal(journal: Journal, countdown: _Countdown) -> Journal:
    """Returns the journal; it may be that one of its commits is the last thing that the process does."""
    append = journal.append

    async def append_and_die(records: Records) -> None:
        await append(records)
        countdown.passed(KillPoint.COMMITTED)

    setattr(journal, "append", append_and_die)  # noqa: B010 - a method, to the type checker
    return journal


def main() -> None:
    """Forks a scheduler per line of standard input, one after the other, until that ends."""
    for request in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _serve(json.loads(request))
        _, status = os.waitpid(pid, 0)
        _tell(pid=pid, ended=os.waitstatus_to_exitcode(status))


def _serve(request: dict[str, Any]) -> None:
    """Is a scheduler until it dies, or until whoever started this is gone."""
    status = 1
    try:
        _tell(pid=os.getpid(), started=True)
        threading.Thread(target=_end_with_the_test, daemon=True).start()
        kill = request["kill"]
        countdown = _Countdown(None if kill is None else Kill(point=KillPoint(kill["point"]), count=kill["count"]))
        build = pkgutil.resolve_name(request["build"]) if request["build"] else Build()
        uvloop.run(_live(Settings.model_validate_json(request["settings"]), countdown, build))
        status = 0
    finally:
        os._exit(status)  # not a return: the loop of the process that forked must not go on in this one


async def _live(settings: Settings, countdown: _Countdown, build: Build) -> None:
    switchboard = Switchboard()
    plane = build.plane(
        policy=policy_of(settings),
        journal=_mortal(build.journal(settings.sql_url), countdown),
        # Over lines alone: there is no actor to call where a line is away, so orders wait for it.
        drivers={"ray": LineDriver(switchboard)},
        blobs=FsspecBlobs(settings.blob_place, max_blob_bytes=settings.blobs.max_blob_bytes),
        clock=SystemClock(),
        settings=settings.scheduler,
        retention=settings.retention,
        rules=build.rules,
    )
    points = FailPoints(plane, fail=_die)

    def is_last(_: int) -> bool:
        return countdown.due(KillPoint.STEP)

    def accept(name: str, line: Line) -> Receiver:
        outlet: Outlet = _MortalOutlet(line, countdown)
        return _MortalReceiver(switchboard.accept(name, outlet), countdown)

    with points.arm(is_last):
        await plane.start()
        server = LineServer(accept)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(switchboard.run(plane))
            await asyncio.sleep(0)  # the switchboard runs before the first line comes
            address = await server.start("127.0.0.1", HERE)
            _tell(pid=os.getpid(), address=asdict(address) | {"key": address.key.hex()})
            await _asked_to_end()
            serving.cancel()
        server.close()
        await plane.stop()


async def _asked_to_end() -> None:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await ending.wait()


def _end_with_the_test() -> None:
    """Sees to it that no scheduler outlives its test: nothing is said on standard input any more, so it has closed.

    In a thread, because a loop would make the pipe non-blocking for the process that forked as well.
    """
    select.select([sys.stdin.fileno()], [], [])
    _die()


def address_of(told: dict[str, Any]) -> LineAddress:
    """Returns the address that a scheduler told."""
    return LineAddress(**(told | {"key": bytes.fromhex(told["key"])}))


def _tell(**what: Any) -> None:
    os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")  # one write: lines of two processes do not mix


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # in a thread of the journal: nothing more of it is run


if __name__ == "__main__":
    main()
