"""A claw gateway as this machine's node sees it: implements ``Pool``, between the session, the node and the disk.

What lives here: the order in which things are done. A workload's record is on the disk before the node is told to begin
it; so is its end before the node takes it for told; its log is told before its end. What does not: what is said
(``claw_session``) and by which connection (``link``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from arcray.agents.claw_session import Action, ClawSession, Leave, SetLogLevel
from arcray.agents.claw_works import Work
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import ArcrayError, NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.orders import Order, StartWorkload
from arcray.core.ports import Clock
from arcray.state_directory import private

__all__ = ["ClawPool", "Records"]

_log = logging.getLogger(__name__)

Take: TypeAlias = Callable[[Sequence[Order]], Awaitable[None]]

_LOOK_S: Final = 0.25
_PIECE_BYTES: Final = 64 << 10
_LEVELS: Final = {
    "trace": "DEBUG",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "warning": "WARNING",
    "error": "ERROR",
    "off": "CRITICAL",
}


class Records:
    """What the disk keeps of workloads, a file each. Blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> list[bytes]:
        """Returns all records; the directory is there afterwards."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return [path.read_bytes() for path in sorted(self._directory.glob("*.json"))]

    def write(self, name: str, record: bytes | None) -> None:
        """Replaces a record; None removes it."""
        path = self._directory / f"{name}.json"
        if record is None:
            path.unlink(missing_ok=True)
            return
        draft = path.with_suffix(".draft")
        with open(draft, "wb", opener=private) as file:
            file.write(record)
        draft.replace(path)


class ClawPool:
    """Tells a gateway, and does what it asks.

    Args:
        take: hands orders to the node.
        leave: told that the gateway wants this machine to go.

    Attributes:
        wake: called whenever the session may have something to say.
        reconnect: called when this machine has become another, which only a registration can say.
    """

    def __init__(
        self,
        session: ClawSession,
        clock: Clock,
        blobs: FsspecBlobs,
        records: Records,
        *,
        take: Take,
        leave: Callable[[Leave], None],
    ) -> None:
        self._session = session
        self._clock = clock
        self._blobs = blobs
        self._records = records
        self._take = take
        self._leave = leave
        self._registration: NodeRegistration | None = None
        self._reading_logs = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._saves: set[asyncio.Future[None]] = set()
        self._end = asyncio.Event()
        self.wake: Callable[[], None] = lambda: None
        self.reconnect: Callable[[], Awaitable[None]] = _nothing

    # -- the port -----------------------------------------------------------------------------------------------------

    async def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> Sequence[Running]:
        """Takes what this machine is. Whether the gateway is there matters nothing: it is told once it is."""
        changed = self._registration not in (None, registration)
        self._registration = registration
        unwanted = self._session.attach(registration, inventory)
        await self.save()
        if changed:
            await self.reconnect()
        return unwanted

    async def phase(self, report: ReportPhase) -> None:
        """Tells that work went to a live phase."""
        self._session.phase(report)
        await self.save()
        self.wake()

    async def end(self, report: ReportEnd) -> None:
        """Tells that work has ended, after all that it wrote."""
        work = self._session.ended(report)
        await self.save()
        if work is not None:
            await self._tell_log(work)
        self._end.set()
        self.wake()

    async def reading(self, telemetry: Telemetry | None) -> None:
        """Keeps a reading for the next metrics."""
        self._session.reading(telemetry)

    # -- what the gateway asks ----------------------------------------------------------------------------------------

    async def ended(self) -> None:
        """Returns once another workload has ended."""
        self._end.clear()
        await self._end.wait()

    async def act(self, actions: Sequence[Action]) -> None:
        """Does what a frame asks for."""
        await self.save()
        for action in actions:
            match action:
                case Leave():
                    self._leave(action)
                case SetLogLevel():
                    set_log_level(action.level)
                case _:
                    await self.order([action])

    async def order(self, orders: Sequence[Order]) -> None:
        """Hands orders to the node; what it does not take has failed."""
        for order in orders:
            try:
                await self._take([order])
            except ArcrayError as error:
                _log.warning("order not taken", extra={"workload_id": order.workload_id, "reason": str(error)})
                if isinstance(order, StartWorkload):
                    self._session.undelivered(order, error)
        await self.save()
        self.wake()

    async def run(self) -> None:
        """Tells what workloads write, and starts again what is due, until it is cancelled."""
        while True:
            for work in self._session.logged():
                await self._tell_log(work)
            if again := self._session.restarts():
                await self.order(again)
            await self._clock.sleep(_LOOK_S)

    # -- logs and records ---------------------------------------------------------------------------------------------

    async def _tell_log(self, work: Work) -> None:
        """Tells what a workload has written and the gateway was not told; then its end, if it has come."""
        key = log_key(WorkloadId(work.id))
        async with self._reading_logs:
            while work in self._session.logged():
                over = work.finish is not None
                size = await self._blobs.size(key) or 0
                work.log_sent = min(work.log_sent, size)  # the oldest lines of a long log go
                data = await self._piece(key, work.log_sent) if size > work.log_sent else b""
                full = len(data) == _PIECE_BYTES
                taken = self._session.log(work, data, last=over and not full, full=full) if data else 0
                if not taken:
                    if over:
                        self._session.finish(work)
                    break
                self.wake()
        await self.save()

    async def _piece(self, key: str, start: int) -> bytes:
        try:
            return await self._blobs.get(key, start, start + _PIECE_BYTES)
        except NotFoundError:
            return b""

    async def save(self) -> None:
        """Writes what has changed to the disk. What cannot be written is not kept, which only a killed agent misses."""
        # Whoever is cancelled here leaves the writing to finish: what has changed is told once.
        saving = asyncio.ensure_future(self._save())
        self._saves.add(saving)
        saving.add_done_callback(self._saves.discard)
        await asyncio.shield(saving)

    async def _save(self) -> None:
        async with self._saving:
            for name, record in self._session.changes().items():
                try:
                    await asyncio.to_thread(self._records.write, name, record)
                    if record is None:
                        await self._blobs.delete(log_key(WorkloadId(name)))
                except (OSError, ArcrayError) as error:
                    _log.warning("record of a workload not kept", extra={"workload_id": name, "reason": str(error)})


async def _nothing() -> None:
    """Does nothing: there is no connection yet."""


def set_log_level(level: str) -> None:
    """Has this process log so much; a level that nobody knows changes nothing.

    Args:
        level: as Python or Rust call it.
    """
    known = _LEVELS.get(level.lower())
    if known is None:
        _log.warning("the gateway wants a level of logging that is none", extra={"level": level[:64]})
        return
    logging.getLogger("arcray").setLevel(known)
