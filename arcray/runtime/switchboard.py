"""The scheduler's end of all lines: who asks what, which answers and events go where, which node takes orders.

What lives here: handing asks to the plane in their order, gathering what is to be said to each client, and its event
streams. What does not: any decision on a command. No Ray, no sockets.

Invariants: what waits for one client is bounded by what it asked plus ``event_limit``; a line that is lost leaves
nothing behind; an answer goes to the line that asked, and is dropped when that is gone: its client asks again, and asks
mean the same twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Final, Protocol, cast

from arcray.control.batch import Reply
from arcray.control.loops import contain_async
from arcray.core.commands import Command, SubmitWorkload
from arcray.core.errors import ArcrayError, InternalError, InvalidArgumentError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.ports import ControlPlane, EventBatch
from arcray.core.queries import Answer, Query
from arcray.core.queues import Queue, QueueReading
from arcray.core.workload import WorkloadView
from arcray.drivers.frames import decode, encode
from arcray.runtime.messages import (
    CHUNK,
    FRAME,
    FRAME_BYTES,
    REPEATABLE,
    BlobCall,
    FromClient,
    FromScheduler,
    Streams,
    without_spec,
)

__all__ = ["LocalPlane", "Outlet", "Switchboard"]

_log = logging.getLogger(__name__)

_BURST_S: Final = 0.01  # events wait this long for more of them; replies never wait
_EVENT_LIMIT: Final = 16_384
_GAP: Final = EventBatch(events=(), gap=True)


class LocalPlane(ControlPlane, Protocol):
    """A control plane in this process, whose replies can be had one by one."""

    def take(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Handles commands in order; each reply gets the answer or the ``ArcrayError`` that refused its command."""
        ...

    def answer_soon(self, query: Query, told: Callable[[Answer | ArcrayError | None], None]) -> bool:
        """Answers what it can without a task; see ``control.plane.Plane``."""
        ...


class Outlet(Protocol):
    """An end of a line, as far as it is needed here."""

    @property
    def full(self) -> bool:
        """Whether to hold back until there is room."""
        ...

    def send(self, frame: bytes) -> None:
        """Sends a frame."""
        ...

    def close(self) -> None:
        """Ends the line."""
        ...


class Switchboard:
    """All clients.

    Args:
        event_limit: events that may wait for one client; when more come, all of them are dropped for a gap.
    """

    def __init__(self, *, event_limit: int = _EVENT_LIMIT) -> None:
        self._plane: LocalPlane | None = None
        self.event_limit = event_limit
        self._clients: dict[str, _Client] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self, plane: LocalPlane) -> None:
        """Serves this plane, and owns the tasks of streams and queries, until it is cancelled; then lines are closed.

        Args:
            plane: not of the constructor, because the plane delivers orders through this switchboard.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._plane, self._group = plane, group
                await asyncio.get_running_loop().create_future()
        finally:
            for client in list(self._clients.values()):
                client.line.close()

    @property
    def clients(self) -> int:
        """How many lines stand."""
        return len(self._clients)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many events wait for the client that has the most of them."""
        longest = max((client.event_count for client in self._clients.values()), default=0)
        return (QueueReading(queue=Queue.CLIENT_EVENTS, length=longest, limit=self.event_limit),)

    def accept(self, name: str, line: Outlet) -> _Client:
        """Takes a new line; an older one of the same client is closed."""
        assert self._plane is not None, "lines are taken once it runs"
        before = self._clients.get(name)
        if before is not None:
            before.line.close()
        client = self._clients[name] = _Client(name, line, self._plane, self)
        _log.info("client connected", extra={"client": name})
        return client

    def reaches(self, address: str) -> bool:
        """Returns whether the process of this name has its line open."""
        return address in self._clients

    async def deliver(self, address: str, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        """Hands a node's orders to the process of this name; see ``drivers.line.Lines``."""
        client = self._clients.get(address)
        if client is None:
            raise UnavailableError(f"{address} has no line open")
        await client.deliver(node_id, epoch, orders)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs work of a client for as long as this runs."""
        assert self._group is not None, "run() owns the tasks"
        return self._group.create_task(work)

    def forget(self, client: _Client) -> None:
        """Lets go of a client whose line is gone."""
        if self._clients.get(client.name) is client:
            del self._clients[client.name]


class _Client:
    """One line and what waits for it."""

    def __init__(self, name: str, line: Outlet, plane: LocalPlane, board: Switchboard) -> None:
        self.name = name
        self.line = line
        self._plane = plane
        self._board = board
        self._loop = asyncio.get_running_loop()
        self.gone = False
        self._replies: list[tuple[int, Any]] = []
        self._ends: list[tuple[int, tuple[Any, ...]]] = []
        self._events: list[tuple[int, EventBatch | None]] = []
        self.event_count = 0
        self._orders: list[tuple[int, NodeId, int, tuple[Order, ...]]] = []
        self._deliveries: dict[int, asyncio.Future[ArcrayError | None]] = {}
        self._numbers = count()
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._flushing = False
        self._burst: asyncio.TimerHandle | None = None

    # -- what it says --------------------------------------------------------------------------------------------

    def on_frame(self, frame: bytes) -> None:
        """Acts on what a client says."""
        said: FromClient = decode(frame)
        for number, error in said.taken:
            delivery = self._deliveries.pop(number, None)
            if delivery is not None and not delivery.done():
                delivery.set_result(error)
        if said.streams is not None:
            self._open(said.streams)
        if said.commands:
            replies = [_Ticket(self, number, command) for number, command in said.commands]
            self._plane.take([command for _, command in said.commands], replies)
        for ticket, query in said.queries:
            if isinstance(query, BlobCall) or not self._plane.answer_soon(query, partial(self._told, ticket, query)):
                self._ask(ticket, query)

    def on_room(self) -> None:
        """There is room to send again."""
        self._flush()

    def on_lost(self, reason: str) -> None:
        """The line is gone."""
        _log.info("client disconnected", extra={"client": self.name, "reason": reason})
        self.gone = True
        self._board.forget(self)
        for task in self._streams.values():
            task.cancel()
        if self._burst is not None:
            self._burst.cancel()
        for delivery in self._deliveries.values():
            if not delivery.done():
                delivery.set_result(UnavailableError(f"the line to {self.name} was lost"))

    # -- what is said to it --------------------------------------------------------------------------------------

    async def deliver(self, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        """See ``Switchboard.deliver``."""
        number = next(self._numbers)
        taken = self._deliveries[number] = self._loop.create_future()
        self._orders.append((number, node_id, epoch, tuple(orders)))
        self._flush()
        try:
            error = await taken
        finally:
            self._deliveries.pop(number, None)
        if error is not None:
            raise error

    def answer(self, ticket: int, value: object) -> None:
        """Says what a command or a query was answered with, soon."""
        self._replies.append((ticket, value))
        self._flush_soon()

    def tell_end(self, ticket: int, view: WorkloadView) -> None:
        """Says how the workload ended that its client submitted in this ask."""
        self._ends.append((ticket, without_spec(view)))
        self._flush_soon()

    def _told(self, ticket: int, query: Query, answered: Answer | ArcrayError | None) -> None:
        if answered is not None:
            self.answer(ticket, answered)
        elif not self.gone:  # it never came true, and memory is being rebuilt
            self._ask(ticket, query)

    def _ask(self, ticket: int, asked: Query | BlobCall) -> None:
        work = self._blob(asked) if isinstance(asked, BlobCall) else self._plane.query(asked)
        asking = self._board.spawn(contain_async(work, type(asked).__name__))
        asking.add_done_callback(partial(self._answer_query, ticket))

    async def _blob(self, asked: BlobCall) -> object:
        if asked.operation not in REPEATABLE:
            raise InvalidArgumentError("is no call that may be made twice", field="operation")
        return await getattr(self._plane.blobs, asked.operation)(asked.key, *asked.arguments)

    def _answer_query(self, ticket: int, task: asyncio.Task[object]) -> None:
        self.answer(ticket, _value(task))

    def _flush_soon(self) -> None:
        if len(self._replies) + len(self._ends) >= CHUNK:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        while self._replies or self._ends or self._orders or self._events:
            if self.gone or self.line.full:
                return
            for frame in _frames_of(self._next()):
                self.line.send(frame)

    def _next(self) -> FromScheduler:
        """Returns what is said next. What a full line has gathered is said in portions, each once there is room."""
        said = FromScheduler(
            replies=tuple(self._replies[:FRAME]),
            ends=tuple(self._ends[:FRAME]),
            events=tuple(self._events),
            orders=tuple(self._orders),
        )
        del self._replies[:FRAME], self._ends[:FRAME]
        self._orders.clear()
        self._events.clear()
        self.event_count = 0
        return said

    # -- streams -------------------------------------------------------------------------------------------------

    def _open(self, wanted: Streams) -> None:
        for stream in self._streams.keys() - wanted.keys():
            self._streams.pop(stream).cancel()
        for stream, topics in wanted.items():
            if stream not in self._streams:
                self._streams[stream] = self._board.spawn(self._pump(stream, topics))

    async def _pump(self, stream: int, topics: frozenset[Topic]) -> None:
        try:
            # Every implementation can be closed; the port promises only what readers need.
            source = cast("AsyncGenerator[EventBatch, None]", self._plane.events(topics))
            async with aclosing(source) as batches:
                async for batch in batches:
                    self._tell(stream, batch)
        except ArcrayError as error:
            _log.warning("event stream ended", extra={"client": self.name, "reason": str(error)})
        except Exception:  # noqa: BLE001 - one client's stream must not take the others along
            _log.exception("event stream failed", extra={"client": self.name})
        self._tell(stream, None)

    def _tell(self, stream: int, batch: EventBatch | None) -> None:
        size = len(batch.events) if batch is not None else 0
        if self.event_count + size > self._board.event_limit:
            self._events = [(open_stream, _GAP) for open_stream in self._streams]
            self.event_count = 0
        else:
            self._events.append((stream, batch))
            self.event_count += size
        if self._burst is None:
            self._burst = self._loop.call_later(_BURST_S, self._end_burst)

    def _end_burst(self) -> None:
        self._burst = None
        self._flush()


class _Ticket:
    """The reply to one command of a client. Thousands a second, so it is no future with a callback."""

    __slots__ = ("_client", "_command", "_number")

    def __init__(self, client: _Client, number: int, command: Command) -> None:
        self._client = client
        self._number = number
        self._command = command

    def done(self) -> bool:
        """Returns whether the client is gone."""
        return self._client.gone

    def set_result(self, result: object) -> None:
        """Sends the answer."""
        command = self._command
        if type(result) is WorkloadView and type(command) is SubmitWorkload and result.spec is command.spec:
            self._client.tell_end(self._number, result)
        else:
            self._client.answer(self._number, result)


def _frames_of(said: FromScheduler) -> Iterator[bytes]:
    """Yields what is said as one frame, or as several where its replies are already more than one should carry."""
    frame = encode(said)
    if len(frame) <= FRAME_BYTES or len(said.replies) <= 1:
        yield frame
        return
    half = len(said.replies) // 2
    yield from _frames_of(replace(said, replies=said.replies[:half]))
    yield from _frames_of(FromScheduler(replies=said.replies[half:]))


def _value(task: asyncio.Task[object]) -> object:
    """Returns what a finished query answers, as a value."""
    if task.cancelled():
        return UnavailableError("the scheduler is ending; try again shortly")
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, ArcrayError):
        return error
    _log.error("ask failed", exc_info=error)
    return InternalError()
