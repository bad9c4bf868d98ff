"""A plane whose replies the test gives, and a line to it that the test can cut. No Ray, no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from arcray.control.batch import Reply
from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import Query
from arcray.drivers.frames import decode
from arcray.runtime.line import Receiver
from arcray.runtime.messages import FromClient
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.switchboard import Switchboard
from arcray.testing.clock import FakeClock

NO_BLOBS = cast("BlobStore", None)  # these tests move no bytes


class ScriptedPlane:
    """Holds every reply until the test gives it, unless ``auto`` answers at once."""

    def __init__(self) -> None:
        self.auto: Any = None
        self.begun: list[Command] = []
        self.replies: list[Reply] = []
        self.answers: dict[Query, Any] = {}
        self.readers: list[tuple[frozenset[Topic], asyncio.Queue[EventBatch | ArcrayError]]] = []
        self.store: BlobStore | None = None

    @property
    def blobs(self) -> BlobStore:
        assert self.store is not None
        return self.store

    def take(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        self.begun += commands
        self.replies += replies
        if self.auto is not None:
            for command, reply in zip(commands, replies, strict=True):
                reply.set_result(self.auto(command))

    def answer_soon(self, query: Query, told: Callable[[Any], None]) -> bool:
        _ = query, told
        return False

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        raise NotImplementedError

    async def query(self, query: Query) -> Any:
        answer = self.answers[query]
        if isinstance(answer, ArcrayError):
            raise answer
        return answer

    async def events(self, topics: frozenset[Topic]) -> AsyncGenerator[EventBatch, None]:
        queue: asyncio.Queue[EventBatch | ArcrayError] = asyncio.Queue()
        entry = (topics, queue)
        self.readers.append(entry)
        try:
            yield EventBatch(events=())
            while True:
                batch = await queue.get()
                if isinstance(batch, ArcrayError):
                    raise batch
                yield batch
        finally:
            self.readers.remove(entry)

    def publish(self, topic: Topic, *events: Event) -> None:
        for topics, queue in self.readers:
            if topic in topics:
                queue.put_nowait(EventBatch(events=events))


class MemoryEnd:
    """One end of a line in memory: frames arrive at the other end in order, a turn of the loop later."""

    def __init__(self) -> None:
        self.full = False
        self.closed = False
        self.sent: list[bytes] = []
        self.receiver: Receiver | None = None
        self.other: MemoryEnd | None = None

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        asyncio.get_running_loop().call_soon(self._arrive, frame)

    def _arrive(self, frame: bytes) -> None:
        if not self.closed and self.other is not None and self.other.receiver is not None:
            self.other.receiver.on_frame(frame)

    def close(self) -> None:
        for end in (self, self.other):
            if end is not None and not end.closed:
                end.closed = True
                if end.receiver is not None:
                    asyncio.get_running_loop().call_soon(end.receiver.on_lost, "closed")

    def set_full(self, full: bool) -> None:
        self.full = full
        if not full and self.receiver is not None:
            self.receiver.on_room()


class MemoryDialer:
    """Opens lines to the switchboard of the present scheduler."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        self.dialled = 0
        self.switchboard: Switchboard | None = None
        self.lines: list[MemoryEnd] = []

    async def dial(self, receiver: Receiver) -> MemoryEnd:
        self.dialled += 1
        if self.away or self.switchboard is None:
            raise UnavailableError("the scheduler is away")
        ours, theirs = MemoryEnd(), MemoryEnd()
        ours.other, theirs.other = theirs, ours
        ours.receiver = receiver
        theirs.receiver = self.switchboard.accept(self.name, theirs)
        self.lines.append(ours)
        return ours


class Rig:
    """A scheduler and one client of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.plane = ScriptedPlane()
        self.dialer = MemoryDialer("arcray-node-1")
        self.taken: list[tuple[NodeId, int, tuple[Order, ...]]] = []
        self.refusal: ArcrayError | None = None
        self.connections = 0
        self.remote = RemotePlane(
            self.dialer,
            NO_BLOBS,
            self.clock,
            client="arcray-node-1",
            give_up_s=30.0,
            answer_s=300.0,
            orders=self._take,
            connected=self._connected,
            limit=1000,
            limit_bytes=1000,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _connected(self) -> None:
        self.connections += 1

    async def _take(self, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append((node_id, epoch, tuple(orders)))

    @property
    def switchboard(self) -> Switchboard:
        assert self.dialer.switchboard is not None
        return self.dialer.switchboard

    @property
    def line(self) -> MemoryEnd:
        """The client's end of the newest line."""
        return self.dialer.lines[-1]

    @property
    def said(self) -> list[FromClient]:
        """Everything the client said, over all lines."""
        return [decode(frame) for line in self.dialer.lines for frame in line.sent]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self._start_scheduler()
        self._tasks.append(asyncio.create_task(self.remote.run()))
        await self.settle()
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
            await self.settle()

    async def restart_scheduler(self) -> None:
        """The scheduler dies with its memory and is back at once."""
        self.plane = ScriptedPlane()
        await self._start_scheduler()
        self.line.close()
        await self.settle()

    async def settle(self) -> None:
        """Lets everything ready run."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def _start_scheduler(self) -> None:
        self.dialer.switchboard = Switchboard(event_limit=100)
        self._tasks.append(asyncio.create_task(self.dialer.switchboard.run(self.plane)))
        await self.settle()


@pytest.fixture
def rig() -> Rig:
    return Rig()
