"""One attempt on this machine, as runners see it: what to run, where to tell, when to stop.

A runner is a coroutine that returns how the attempt ended. Cancelling it means that the agent goes away: a container
is left running for the next agent, a child process is ended. What it reports is the agent's business, not its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol, assert_never

from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.ports import Clock
from arcray.core.workload import Phase, PortMapping, Result

__all__ = ["STOPPED_EARLY", "Attempt", "End", "Ending", "PhaseSink", "Runner", "within"]


class Ending(Enum):
    """Why a wait ended."""

    DONE = auto()  # the work ended by itself
    STOP = auto()  # someone asked for its end
    OVERTIME = auto()  # it ran longer than it may


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended: the node's part of ``ReportEnd``."""

    phase: Phase
    message: str = ""
    result: Result = Result()
    refused: bool = False


STOPPED_EARLY: Final = End(phase=Phase.STOPPED, message="stopped before it started")
"""The end of an attempt that was asked for before there was anything to end."""

PhaseSink = Callable[[Phase, str, tuple[PortMapping, ...]], None]
"""Where an attempt tells its live phases: phase, message, ports."""


class Attempt:
    """One start of a workload. Its clock for ``max_duration_s`` starts when it is told to run.

    Args:
        ran_s: how long it has been running already, when it is adopted.
    """

    def __init__(self, order: StartWorkload, *, clock: Clock, sink: PhaseSink, ran_s: float | None = None) -> None:
        self.order = order
        self.clock = clock
        self.grace_s = 0.0
        self.abandoned = False
        self.adopted = ran_s is not None
        self._sink = sink
        self._stop = asyncio.Event()
        self._started = None if ran_s is None else clock.monotonic() - ran_s

    @property
    def workload_id(self) -> WorkloadId:
        """Whose attempt it is."""
        return self.order.workload_id

    @property
    def stopping(self) -> bool:
        """Whether its end was asked for."""
        return self._stop.is_set()

    @property
    def killed(self) -> bool:
        """Whether its end was asked for at once, which is how what may be given to others already is stopped."""
        return self.stopping and self.grace_s == 0

    def phase(self, phase: Phase, message: str = "", ports: tuple[PortMapping, ...] = ()) -> None:
        """Tells a live phase."""
        if phase is Phase.RUNNING and self._started is None:
            self._started = self.clock.monotonic()
        self._sink(phase, message, ports)

    def stop(self, grace_s: float) -> None:
        """Asks for its end; asking again changes nothing."""
        if not self.stopping:
            self.grace_s = grace_s
            self._stop.set()

    async def until(self, work: asyncio.Future[Any]) -> Ending:
        """Waits until the work is done, its end is asked for, or it ran too long. Leaves the work running."""
        waiters: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._stop.wait())}
        if self.order.max_duration_s is not None:
            left = self.order.max_duration_s - (self.clock.monotonic() - (self._started or self.clock.monotonic()))
            waiters.add(asyncio.ensure_future(self.clock.sleep(max(0.0, left))))
        try:
            await asyncio.wait({work, *waiters}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        if work.done():
            return Ending.DONE
        return Ending.STOP if self.stopping else Ending.OVERTIME

    def stopped_or(self, ending: Ending, end: End) -> End:
        """Returns ``end``, told as what caused it: a stop, or running too long."""
        match ending:
            case Ending.STOP:
                return End(phase=Phase.STOPPED, message="stopped on request", result=end.result)
            case Ending.OVERTIME:
                limit = self.order.max_duration_s
                return End(phase=Phase.FAILED, message=f"ran longer than {limit:g} s", result=end.result)
            case Ending.DONE:
                return end
            case _:
                assert_never(ending)


async def within(clock: Clock, seconds: float, work: asyncio.Future[Any]) -> bool:
    """Waits for the work for so long; returns whether it is done. Leaves it running."""
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    try:
        both: set[asyncio.Future[Any]] = {work, sleeper}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()
    return work.done()


class Runner(Protocol):
    """Runs attempts of one kind of payload."""

    async def run(self, attempt: Attempt) -> End:
        """Runs it to its end.

        Raises:
            ArcrayError: it could not be started, and why; the attempt has failed.
        """
        ...
