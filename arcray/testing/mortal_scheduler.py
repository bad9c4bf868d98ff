"""A scheduler that is killed and comes back, as a test sees it: what Ray is to the scheduler actor, without Ray.

The scheduler is ``scheduler_process``: a process with the real plane, journal, switchboard and lines. This end starts
it, tells where its line is, and starts it again whenever it has died.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from arcray.config import Settings
from arcray.core.errors import UnavailableError
from arcray.runtime.line import Line, LineAddress, Receiver, dial
from arcray.testing.scheduler_process import HERE, Kill, KillPoint, address_of

__all__ = ["LineDialer", "MortalScheduler", "Nursery", "nursery"]


class Nursery:
    """The process that schedulers are forked from, one at a time. Made by ``nursery``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def start(self, settings: Settings, kill: Kill | None, build: str = "") -> None:
        """Starts a scheduler; the one before must have ended.

        Args:
            build: where its parts are named, ``module:name`` of a ``simulation.build.Build``; "" is the product's own.
        """
        assert self._process.stdin is not None
        request = {
            "settings": settings.model_dump_json(),
            "kill": None if kill is None else asdict(kill),
            "build": build,
        }
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        await self._process.stdin.drain()

    async def told(self) -> dict[str, Any]:
        """Returns what the scheduler, or the nursery of it, says next."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the process that forks schedulers has ended; its error is above"
        told: dict[str, Any] = json.loads(line)
        return told

    async def close(self) -> None:
        """Ends it, and a scheduler that still lives."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class MortalScheduler:
    """The scheduler of one state directory. Leaving it as an asynchronous context manager ends it gently.

    Args:
        build: its parts, as for ``Nursery.start``; a test of the test plants a bug there.
        longest_life_s: of one that shall die at a point that it does not come to.

    Attributes:
        deaths: how many schedulers have been killed.
    """

    def __init__(self, nursery: Nursery, settings: Settings, build: str = "", *, longest_life_s: float = 5.0) -> None:
        self.deaths = 0
        self._build = build
        self._longest_life_s = longest_life_s
        self._nursery = nursery
        self._settings = settings
        self._pid = 0
        self._address: LineAddress | None = None
        self._serves = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    def dialer(self, client: str) -> LineDialer:
        """Returns how a client of this name opens its lines."""
        return LineDialer(self, client)

    @property
    def address(self) -> LineAddress | None:
        """Where the newest line is, None before the first; that of a dead scheduler stays until the next one serves."""
        return self._address

    async def serves(self) -> None:
        """Waits until a scheduler serves."""
        await self._serves.wait()

    async def end(self) -> None:
        """Ends the one that lives, if any does, gently. Another one may live after it."""
        if self._pid:
            os.kill(self._pid, signal.SIGTERM)
            while self._pid:
                self._note(await self._nursery.told())

    async def live(self, kills: Sequence[Kill]) -> None:
        """Is one scheduler after the other, as many as there are kills, and then one that lives.

        Returns once that serves.

        Raises:
            AssertionError: a scheduler ended in another way than by its kill.
        """
        for kill in kills:
            await self._nursery.start(self._settings, kill, self._build)
            await self._until_dead(kill)
            self.deaths += 1
        await self._nursery.start(self._settings, None, self._build)
        while not self._serves.is_set():
            self._note(await self._nursery.told())

    async def _until_dead(self, kill: Kill) -> None:
        told = await self._nursery.told()
        self._note(told)
        after_s = kill.count / 1000 if kill.point is KillPoint.TIME else self._longest_life_s
        killing = asyncio.get_running_loop().call_later(after_s, os.kill, self._pid, signal.SIGKILL)
        try:
            while self._pid:
                told = await self._nursery.told()
                self._note(told)
        finally:
            killing.cancel()
        assert told["ended"] == -signal.SIGKILL, f"the scheduler ended by itself with {told['ended']}"

    def _note(self, told: dict[str, Any]) -> None:
        if "ended" in told:
            self._pid = 0
            self._serves.clear()
        else:
            self._pid = told["pid"]
        if "address" in told:
            self._address = address_of(told["address"])
            self._serves.set()


class LineDialer:
    """Opens a client's lines; implements ``remote_plane.Dialer``."""

    def __init__(self, scheduler: MortalScheduler, client: str) -> None:
        self._scheduler = scheduler
        self._client = client

    async def dial(self, receiver: Receiver) -> Line:
        """Opens a line to the newest scheduler, which may be dead."""
        address = self._scheduler.address
        if address is None:
            raise UnavailableError("the scheduler is starting")
        return await dial(address, receiver, name=self._client, ray_node_id=HERE)


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Runs a nursery for the time of the block; it takes a second to start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "arcray.testing.scheduler_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    made = Nursery(process)
    try:
        yield made
    finally:
        await made.close()
