"""Luck: what a schedule says is done to the cluster, its machines, its network, its disk and its clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, assert_never

from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, Code, UnavailableError
from arcray.testing.simulation import happenings as h
from arcray.testing.simulation.central import Central
from arcray.testing.simulation.clock import UnsteadyClock
from arcray.testing.simulation.disk import Disk
from arcray.testing.simulation.lies import lie
from arcray.testing.simulation.machines import Door, Machines
from arcray.testing.simulation.network import CALM, Network
from arcray.testing.simulation.trace import Trace
from arcray.testing.simulation.workshop import Book

__all__ = ["Luck"]

_RETRY_S: Final = 0.5
_AGAIN: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})


class Luck:
    """Everything that may happen.

    Args:
        door: the cluster as its clients have it.

    Attributes:
        acts: what is going on.
        down: how many happenings keep the scheduler or a machine down, by name.
    """

    def __init__(
        self,
        *,
        central: Central,
        machines: Machines,
        network: Network,
        disk: Disk,
        clock: UnsteadyClock,
        door: Door,
        book: Book,
        trace: Trace,
    ) -> None:
        self.acts: set[asyncio.Task[None]] = set()
        self.down: dict[str, int] = {}
        self._central = central
        self._machines = machines
        self._network = network
        self._disk = disk
        self._clock = clock
        self._door = door
        self._book = book
        self._trace = trace

    def spawn(self, act: Coroutine[Any, Any, None]) -> None:
        """Lets something go on by itself."""
        task = asyncio.ensure_future(act)
        self.acts.add(task)
        task.add_done_callback(self.acts.discard)

    def end(self) -> None:
        """Ends all bad luck; what is going on goes on to its end."""
        self._network.weather = CALM
        self._disk.heal()
        self._clock.go_on()
        self._machines.refuses_to_carry.clear()
        for machine in self._machines.all.values():
            machine.door.open = True

    async def happen(self, what: h.Happening) -> None:  # noqa: C901  one arm per kind
        """Has something happen; returns when it is over."""
        match what:
            case h.Ask():
                await self.ask(what.command, what.tries)
            case h.Look():
                await self._central.look(what.query)
            case h.KillScheduler():
                await self._restart_scheduler(what.down_s)
            case h.KillAtCommit():
                self._disk.at_commit(what.after, lambda: self.spawn(self._restart_scheduler(what.down_s)))
            case h.TakeOver():
                if self._central.plane is not None and not self.down.get("scheduler"):
                    async with self._being_down("scheduler"):
                        await self._central.take_over(what.overlap_s)
            case h.KillAgent():
                machine = self._machines.all[what.node_id]
                async with self._being_down(machine.name):
                    await machine.kill(power=what.power)
                    await asyncio.sleep(what.down_s)
                self._start(machine.name)
            case h.Leave():
                machine = self._machines.all[what.node_id]
                async with self._being_down(machine.name):
                    await machine.leave()
                    await asyncio.sleep(what.down_s)
                self._start(machine.name)
            case h.CutOff():
                door = self._machines.all[what.node_id].door
                door.open = False
                await asyncio.sleep(what.for_s)
                door.open = True
            case h.Lie():
                await self._lie(what)
            case h.BreakDriver():
                self._machines.refuses_to_carry.add(what.node_id)
                await asyncio.sleep(what.for_s)
                self._machines.refuses_to_carry.discard(what.node_id)
            case _:
                await self._surroundings(what)

    async def _surroundings(
        self, what: h.FailDisk | h.DiskAway | h.SlowDisk | h.SetClock | h.StopClock | h.ChangeWeather
    ) -> None:
        match what:
            case h.FailDisk():
                self._disk.fail_after(what.steps)
            case h.DiskAway():
                self._disk.fail_for(what.for_s)
            case h.SlowDisk():
                self._disk.slow_s = what.slow_s
                await asyncio.sleep(what.for_s)
                self._disk.slow_s = 0.003
            case h.SetClock():
                self._clock.jump(what.by_s)
            case h.StopClock():
                self._clock.stop()
                await asyncio.sleep(what.for_s)
                self._clock.go_on()
            case h.ChangeWeather():
                self._network.weather = what.weather
                await asyncio.sleep(what.for_s)
                self._network.weather = CALM
            case _:
                assert_never(what)

    async def ask(self, command: Command, tries: int) -> None:
        """Asks for a change, and again while it is not known to be taken or refused."""
        for _ in range(tries):
            try:
                (reply,) = await self._door.submit([command])
            except UnavailableError:
                pass
            else:
                if not isinstance(reply, ArcrayError) or reply.code not in _AGAIN:
                    return
            await asyncio.sleep(_RETRY_S)

    async def _lie(self, what: h.Lie) -> None:
        machine = self._machines.all[what.node_id]
        epoch = machine.agent.epoch if machine.agent is not None else 0
        report = lie(what.what, what.node_id, epoch, list(self._book.runs.values()), what.draw)
        if report is not None:
            self._trace.say(machine.name, f"lies: {report}")
            with contextlib.suppress(UnavailableError):
                await machine.door.submit([report])

    async def _restart_scheduler(self, down_s: float) -> None:
        if self.down.get("scheduler"):
            return
        async with self._being_down("scheduler"):
            self._central.kill()
            await asyncio.sleep(down_s)
            await self._central.start()

    @contextlib.asynccontextmanager
    async def _being_down(self, name: str) -> AsyncIterator[None]:
        self.down[name] = self.down.get(name, 0) + 1
        try:
            yield
        finally:
            self.down[name] -= 1

    def _start(self, name: str) -> None:
        """Starts a machine, unless something else keeps it down."""
        if not self.down[name]:
            next(machine for machine in self._machines.all.values() if machine.name == name).start()
