"""The control plane as every other process sees it: the port, over one line to the scheduler.

What lives here: batching, tickets, asking again after a restart, giving up. What does not: where the scheduler is
(``actor_dialer``) and how frames travel (``line``). Invariants: commands are acted on in the order in which they were
submitted; every ask is answered once, by the scheduler or by an ``UnavailableError``.

Batching is adaptive and needs no timer: what is asked in one turn of the event loop is one frame, except that every
``CHUNK`` asks go at once, so that the scheduler begins while this process still reads requests. A line that is full
makes the next frame larger, up to ``FRAME`` asks and ``FRAME_BYTES``: what is asked again after a restart would else
be one frame of any size, which a line refuses and which holds up everyone else at the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from arcray.control.loops import contain_async
from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, BusyError, DeadlineExceededError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.ports import BlobStore, Clock, EventBatch
from arcray.core.queries import Query
from arcray.core.queues import Queue, QueueReading
from arcray.core.repeats import was_done_before
from arcray.drivers.frames import decode, encode
from arcray.runtime.line import Receiver
from arcray.runtime.messages import (
    CHUNK,
    FRAME,
    FRAME_BYTES,
    BlobCall,
    FromClient,
    FromScheduler,
    weight_of,
    with_spec,
)
from arcray.runtime.remote_blobs import RemoteBlobs
from arcray.runtime.switchboard import Outlet
from arcray.wire.event_hub import Subscription

__all__ = ["Dialer", "RemotePlane", "TakeOrders"]

_log = logging.getLogger(__name__)

_BACKOFF_S: Final = (0.05, 0.1, *(0.2,) * 15, 0.5, 1.0)  # a killed scheduler is back in 3 s: until then, look often
_TAKEN_S: Final = 0.001
_SWEEP_S: Final = 1.0
_EVENT_LIMIT: Final = 16_384
_GAP: Final = EventBatch(events=(), gap=True)

TakeOrders = Callable[[NodeId, int, Sequence[Order]], Awaitable[None]]
"""Takes a node's orders of an epoch; raises an ``ArcrayError`` to refuse them."""


class Dialer(Protocol):
    """How a line to the scheduler is opened."""

    async def dial(self, receiver: Receiver) -> Outlet:
        """Returns this end of a new line.

        Raises:
            UnavailableError: the scheduler is away.
        """
        ...


@dataclass(slots=True, eq=False)
class _Ask:
    """Something asked and not answered yet. ``answer`` ends with a reply or an error, never by an exception.

    Args:
        sent: it was said over a line.
        again: it was said over an earlier line already, so the scheduler may have acted on it.
    """

    ticket: int
    what: Any
    command: bool
    since_s: float
    answer: asyncio.Future[Any]
    weight_bytes: int
    sent: bool = False
    again: bool = False


@dataclass(slots=True, eq=False)
class _Stream:
    """One open event stream.

    Args:
        asked: the scheduler was told of it once.
        missed: the line was lost since, so the next batch is a gap.
        broken: the scheduler ended it.
    """

    topics: frozenset[Topic]
    queue: Subscription
    asked: bool = False
    missed: bool = False
    broken: bool = False


class RemotePlane:
    """Implements ``core.ports.ControlPlane`` for one process.

    Args:
        client: names this process; for diagnosis, and the address of its nodes.
        give_up_s: longest absence of the scheduler that an ask waits out, and longest wait for a query.
        answer_s: longest wait for a command. A little more than the scheduler itself lets one take, so this is for a
            scheduler that stands and does not answer.
        orders: takes what the scheduler orders nodes of this process to do; None in a process that has none.
        connected: called whenever a line stands; the scheduler behind it may be another one than before.
        limit: asks that may wait for an answer; more are refused at once.
        limit_bytes: of what of them may be large; also refused at once, unless nothing else waits.
    """

    def __init__(
        self,
        dialer: Dialer,
        blobs: BlobStore,
        clock: Clock,
        *,
        client: str,
        give_up_s: float,
        answer_s: float,
        orders: TakeOrders | None = None,
        connected: Callable[[], None] | None = None,
        limit: int = 50_000,
        limit_bytes: int = 256 * 2**20,
    ) -> None:
        self._dialer = dialer
        self._blobs = blobs
        if isinstance(blobs, RemoteBlobs):
            blobs.go_by(self.blob)
        self._clock = clock
        self._client = client
        self._give_up_s = give_up_s
        self._answer_s = answer_s
        self._take_orders = orders
        self._connected = connected
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._asked_bytes = 0
        self._tickets = 0
        self._asked: dict[int, _Ask] = {}
        self._unsent: list[_Ask] = []
        self._taken: list[tuple[int, ArcrayError | None]] = []
        self._streams: dict[int, _Stream] = {}
        self._streams_changed = False
        self._flushing = False
        self._line: Outlet | None = None
        self._lost: asyncio.Future[str] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._ended: ArcrayError | None = None

    async def run(self) -> None:
        """Keeps the line until it is cancelled; what is unanswered then fails. Asks made before it runs wait for it."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._sweep_forever())
                await self._keep_line()
        finally:
            self._ended = _NeverReachedError("this process is ending")
            self._fail(list(self._asked.values()), self._ended)

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns what waits for an answer, and for the reader of events that has the most of them."""
        longest = max((len(stream.queue) for stream in self._streams.values()), default=0)
        return (
            QueueReading(queue=Queue.ASKS, length=len(self._asked), limit=self._limit),
            QueueReading(queue=Queue.STREAM_EVENTS, length=longest, limit=_EVENT_LIMIT),
        )

    # -- the port ------------------------------------------------------------------------------------------------

    @property
    def blobs(self) -> BlobStore:
        """The blob store of the cluster."""
        return self._blobs

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        """Hands commands to the scheduler.

        Returns:
            One entry per command: its reply, or the error that refused it.

        Raises:
            UnavailableError: the scheduler could not be reached; nothing is known of the commands.
        """
        asks = [self._ask(command, command=True) for command in commands]
        answers = [await ask.answer for ask in asks]
        for answer in answers:
            if type(answer) is _NeverReachedError:
                raise UnavailableError(answer.message)
        return answers

    async def query(self, query: Query) -> Any:
        """Answers a query.

        Raises:
            NotFoundError: the thing asked for does not exist, or not for that account.
            UnavailableError: the scheduler could not be reached.
            DeadlineExceededError: it did not answer.
        """
        return await self._answer(query)

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the scheduler's blob store over the line; see ``remote_blobs`` for which.

        Raises:
            ArcrayError: that of the store, or as ``query``.
        """
        return await self._answer(BlobCall(operation=operation, key=key, arguments=arguments))

    async def events(self, topics: frozenset[Topic]) -> AsyncGenerator[EventBatch, None]:
        """Yields events published from now on. The first batch says that the stream stands.

        Raises:
            UnavailableError: the scheduler ended the stream; open it again.
        """
        self._tickets += 1
        number = self._tickets
        stream = self._streams[number] = _Stream(topics, Subscription(_EVENT_LIMIT))
        self._change_streams()
        try:
            async for batch in stream.queue:
                if stream.broken:
                    raise UnavailableError("the scheduler ended the event stream; open it again")
                yield batch
        finally:
            del self._streams[number]
            self._change_streams()

    # -- saying --------------------------------------------------------------------------------------------------

    def _ask(self, what: Command | Query | BlobCall, *, command: bool) -> _Ask:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        ask = _Ask(self._tickets, what, command, self._clock.monotonic(), answer, weight_of(what))
        if self._ended is not None:
            answer.set_result(self._ended)
        elif len(self._asked) >= self._limit:
            answer.set_result(BusyError(f"{self._limit} calls wait for the scheduler already"))
        elif self._asked and ask.weight_bytes and self._asked_bytes + ask.weight_bytes > self._limit_bytes:
            answer.set_result(BusyError(f"{self._limit_bytes} bytes wait for the scheduler already"))
        else:
            self._asked[ask.ticket] = ask
            self._asked_bytes += ask.weight_bytes
            if self._line is not None:  # else a new line begins with all that is unanswered
                self._unsent.append(ask)
                if len(self._unsent) >= CHUNK:
                    self._flush()
                else:
                    self._flush_soon()
        return ask

    def _drop(self, ticket: int) -> _Ask | None:
        ask = self._asked.pop(ticket, None)
        if ask is not None:
            self._asked_bytes -= ask.weight_bytes
        return ask

    async def _answer(self, what: Query | BlobCall) -> Any:
        answer = await self._ask(what, command=False).answer
        if isinstance(answer, ArcrayError):
            raise answer
        return answer

    def _change_streams(self) -> None:
        self._streams_changed = True
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        line = self._line
        while line is not None and not line.full and (self._unsent or self._taken or self._streams_changed):
            for frame in _frames_of(self._next()):
                line.send(frame)

    def _next(self) -> FromClient:
        asks, self._unsent = self._unsent[:FRAME], self._unsent[FRAME:]
        for ask in asks:
            ask.sent = True
        streams: dict[int, frozenset[Topic]] | None = None
        if self._streams_changed:
            streams = {number: stream.topics for number, stream in self._streams.items()}
            for stream in self._streams.values():
                stream.asked = True
        said = FromClient(
            commands=tuple([(ask.ticket, ask.what) for ask in asks if ask.command]),
            queries=tuple([(ask.ticket, ask.what) for ask in asks if not ask.command]),
            streams=streams,
            taken=tuple(self._taken),
        )
        self._taken.clear()
        self._streams_changed = False
        return said

    # -- hearing -------------------------------------------------------------------------------------------------

    def on_frame(self, frame: bytes) -> None:
        """Takes what the scheduler says."""
        said: FromScheduler = decode(frame)
        for ticket, reply in said.replies:
            ask = self._drop(ticket)
            if ask is not None and not ask.answer.done():  # its caller may have gone
                done = ask.again and isinstance(reply, ArcrayError) and was_done_before(ask.what, reply)
                ask.answer.set_result(None if done else reply)
        for ticket, rest in said.ends:
            ask = self._drop(ticket)
            if ask is not None and not ask.answer.done():
                ask.answer.set_result(with_spec(ask.what.spec, rest))
        for number, node_id, epoch, orders in said.orders:
            assert self._group is not None, "run() owns the tasks"
            self._group.create_task(self._take(number, node_id, epoch, orders))
        for number, batch in said.events:
            stream = self._streams.get(number)
            if stream is not None:
                _share(stream, batch)

    def on_room(self) -> None:
        """There is room to send again."""
        self._flush()

    def on_lost(self, reason: str) -> None:
        """The line is gone."""
        self._line = None
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    async def _take(self, number: int, node_id: NodeId, epoch: int, orders: Sequence[Order]) -> None:
        refused: ArcrayError | None = UnavailableError(f"{self._client} has no nodes")
        if self._take_orders is not None:
            refused = await contain_async(self._take_orders(node_id, epoch, orders), "orders")
        self._taken.append((number, refused))
        # It goes with what is said next, for work reports soon; until then the scheduler gathers orders. A node with
        # nothing to say makes it wait no longer than this.
        asyncio.get_running_loop().call_later(_TAKEN_S, self._flush)

    # -- the line ------------------------------------------------------------------------------------------------

    async def _keep_line(self) -> None:
        failures = 0
        away_since_s = self._clock.monotonic()
        while True:
            try:
                line = await self._open()
            except ArcrayError as error:
                self._give_up(away_since_s, str(error))
            else:
                failures = 0
                try:
                    reason = await self._lost_line()
                finally:
                    line.close()
                _log.info("scheduler lost", extra={"client": self._client, "reason": reason})
                away_since_s = self._clock.monotonic()
            await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    async def _open(self) -> Outlet:
        """Opens a line and says everything on it that is not answered yet."""
        self._lost = asyncio.get_running_loop().create_future()
        line = await self._dialer.dial(self)
        for ask in [ask for ask in self._asked.values() if ask.answer.cancelled()]:
            self._drop(ask.ticket)  # nobody waits for it any more
        self._unsent = list(self._asked.values())
        for ask in self._unsent:
            ask.again = ask.sent
        self._taken.clear()  # of deliveries over the line before
        for stream in self._streams.values():
            stream.missed = stream.asked
        self._streams_changed = bool(self._streams)
        self._line = line
        self._flush()
        if self._connected is not None:
            self._connected()
        return line

    async def _lost_line(self) -> str:
        assert self._lost is not None
        return await self._lost

    def _give_up(self, away_since_s: float, reason: str) -> None:
        """Fails what has waited too long for a scheduler that has been away as long."""
        due_s = self._clock.monotonic() - self._give_up_s
        if away_since_s <= due_s:
            late = [ask for ask in self._asked.values() if ask.since_s <= due_s]
            self._fail(late, _NeverReachedError(reason))

    async def _sweep_forever(self) -> None:
        """Ends what has waited too long. One look at the oldest a second, where a timer for each costs 5 us."""
        while True:
            await self._clock.sleep(_SWEEP_S)
            now_s = self._clock.monotonic()
            shortest_s = min(self._give_up_s, self._answer_s)
            late: list[_Ask] = []
            for ask in self._asked.values():  # in the order in which they were asked
                waited_s = now_s - ask.since_s
                if waited_s < shortest_s:
                    break
                if waited_s >= (self._answer_s if ask.command else self._give_up_s):
                    late.append(ask)
            # While the scheduler is away that is the reason, and _give_up knows it.
            if late and self._line is not None:
                _log.error("scheduler does not answer", extra={"client": self._client, "asks": len(late)})
                self._fail(late, DeadlineExceededError("the scheduler has not answered; the outcome is unknown"))

    def _fail(self, asks: list[_Ask], error: ArcrayError) -> None:
        for ask in asks:
            self._drop(ask.ticket)
            if not ask.answer.done():
                ask.answer.set_result(error)


class _NeverReachedError(UnavailableError):
    """The scheduler was away for too long; whether it acted is unknown."""


def _frames_of(said: FromClient) -> Iterator[bytes]:
    """Yields what is said as one frame, or as several where few of its asks are already more than one should carry."""
    frame = encode(said)
    commands, queries = said.commands, said.queries
    if len(frame) <= FRAME_BYTES or len(commands) + len(queries) < 2:
        yield frame
        return
    half = (len(commands) + len(queries)) // 2
    yield from _frames_of(replace(said, commands=commands[:half], queries=queries[: max(0, half - len(commands))]))
    rest = FromClient(commands=commands[half:], queries=queries[max(0, half - len(commands)) :])
    yield from _frames_of(rest)


def _share(stream: _Stream, batch: EventBatch | None) -> None:
    if batch is None:
        stream.broken = True
        batch = _GAP  # wakes its reader
    stream.queue.offer(EventBatch(events=batch.events, gap=batch.gap or stream.missed))
    stream.missed = False
