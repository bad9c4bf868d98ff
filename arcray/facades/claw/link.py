"""One node's connection: sends what its session says, tells the cluster what the node says, in the node's order.

What lives here: the two queues of a connection, and waiting. What does not: what frames mean (``session``), which
connection is a node's own (``links``), the socket (``endpoint``).

A queue that is full holds back whoever fills it: frames that the node does not take leave its orders with the
scheduler, and words that the scheduler does not take leave the node's frames unread. A word waits while the scheduler
is away, and is told again under the attachment that stands then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, assert_never

from arcray.claw_proto.frames import Frame
from arcray.core.blobkeys import log_key
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import (
    ArcrayError,
    ResourceExhaustedError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Telemetry
from arcray.core.orders import Order
from arcray.core.ports import Clock, ControlPlane
from arcray.core.workload import Phase
from arcray.facades.claw.reports import report_of
from arcray.facades.claw.session import (
    AGAIN_LATER,
    REPLACED,
    Action,
    Beat,
    ClawSession,
    Close,
    Join,
    Latency,
    Refused,
    Rejected,
    Send,
    Told,
    Wrote,
)
from arcray.wire.telling import AGAIN, tell

__all__ = ["REPLACED_CLOSE", "Limits", "Link"]

_log = logging.getLogger(__name__)

_WORDS: Final = 1_024  # of one node that wait for the scheduler
_WRITTEN_BYTES: Final = 4 << 20  # of logs among them
_ANSWERS: Final = 16_384  # that a node may leave unread, beside its orders
_RECORDS, _RECORDS_S = 20, 10.0  # refusals that are logged of one node in that time; others are counted
_RETRY_S: Final = 0.2  # doubles
_RETRY_MAX_S: Final = 5.0
_CUT: Final = b"[no more is kept of what it writes]\n"

REPLACED_CLOSE: Final = Close(REPLACED, "the node has a newer connection, or was lost: register again")
"""How a connection ends that is not its node's any more."""

_TOO_OFTEN: Final = ResourceExhaustedError("too many registrations come from this address; wait, then register again")

_Word: TypeAlias = Told | Rejected | Wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a connection.

    Args:
        frames: that wait for the node.
        log_bytes: kept of what one workload writes.
    """

    frames: int
    log_bytes: int


class Link:
    """Implements ``wire.attachments.AttachedNode`` for one connection.

    Args:
        admits: asked at each registration; one that it does not admit ends the connection.
        join: is awaited when the node registers, here or again; attaches it.
        heard: is told of every sign of life.

    Attributes:
        closed: how the connection is to end, or has ended; None while it stands.
    """

    def __init__(
        self,
        session: ClawSession,
        plane: ControlPlane,
        clock: Clock,
        *,
        limits: Limits,
        admits: Callable[[], bool],
        join: Callable[[Link], Awaitable[None]],
        heard: Callable[[Link, Telemetry | None], None],
    ) -> None:
        self.session: Final = session
        self.closed: Close | None = None
        self._reading: Telemetry | None = None
        self.heard_s = clock.monotonic()
        self._plane = plane
        self._clock = clock
        self._limits = limits
        self._admits = admits
        self._join = join
        self._heard = heard
        self._epoch = 0
        self._frames: deque[Frame] = deque()
        self._words: deque[_Word] = deque()
        self._to_send = asyncio.Event()
        self._to_tell = asyncio.Event()
        self._told = asyncio.Event()
        self._ended = asyncio.Event()
        self._joining = asyncio.Event()
        self._held = False
        self._recorded = self._unrecorded = 0
        self._recorded_s = clock.monotonic()
        self._written_bytes = 0
        self._answered = asyncio.Event()
        self._cut: set[WorkloadId] = set()

    @property
    def node_id(self) -> NodeId:
        """The node; it has registered."""
        registration = self.session.registration
        assert registration is not None, "it has registered"
        return registration.id

    @property
    def epoch(self) -> int:
        """The present attachment; 0 before the first."""
        return self._epoch

    @property
    def frames(self) -> int:
        """How many frames wait for the node."""
        return len(self._frames)

    @property
    def words(self) -> int:
        """How many of its words wait for the scheduler."""
        return len(self._words)

    @property
    def held(self) -> bool:
        """Whether it is being attached again: the present attachment may be an old one already."""
        return self._held

    def untold(self) -> Sequence[Running]:
        """Returns what has ended on the node and the cluster was not told of yet: for it, the node has that still."""
        return tuple(
            word.work
            for word in self._words
            if isinstance(word, Rejected) or (isinstance(word, Told) and word.state.is_terminal)
        )

    @staticmethod
    def words_allowed() -> int:
        """Returns how many may."""
        return _WORDS

    # -- the socket's side --------------------------------------------------------------------------------------------

    async def take(self, frame: Frame) -> None:
        """Acts on a frame of the node; waits while the scheduler does not take what it said before."""
        self.heard_s = self._clock.monotonic()
        self.act(self.session.receive(frame, self._clock.now()))
        # Before it is attached nothing is told, and what it is asked for has to be read.
        while self._is_behind() and self._epoch and self.closed is None:
            self._told.clear()
            await self._told.wait()

    def _is_behind(self) -> bool:
        return len(self._words) >= _WORDS or self._written_bytes >= _WRITTEN_BYTES

    async def next(self) -> Frame:
        """Returns the next frame to send, waiting for it."""
        while not self._frames:
            self._to_send.clear()
            await self._to_send.wait()
        return self._frames.popleft()

    async def ended(self) -> Close:
        """Returns once the connection is to end, and how. What waits for the node goes out before."""
        await self._ended.wait()
        assert self.closed is not None
        return self.closed

    def left(self) -> Sequence[Frame]:
        """Returns what is to be sent before the connection is closed, and takes it off the queue."""
        frames = tuple(self._frames)
        self._frames.clear()
        return frames

    async def join_forever(self) -> None:
        """Has the node attached whenever it registers, one time after the other, until it is cancelled."""
        while True:
            await self._joining.wait()
            self._joining.clear()
            await self._join(self)

    async def drained(self, patience_s: float) -> None:
        """Waits until the cluster has been told all that the node has said; or for so long."""
        due_s = self._clock.monotonic() + patience_s
        while self._words and self._epoch and (left_s := due_s - self._clock.monotonic()) > 0:
            self._told.clear()
            await self._first_of(self._told.wait(), self._clock.sleep(left_s))

    async def tell_forever(self) -> None:
        """Tells the cluster what the node says, once it is attached, until it is cancelled."""
        while True:
            while not self._words or not self._epoch:
                self._to_tell.clear()
                await self._to_tell.wait()
            word = self._words[0]
            try:
                await self._tell(word)
            except Exception:  # noqa: BLE001 - a loop boundary: a fault of ours must not silence a node
                _log.exception("word of a node lost by our fault", extra=self._fields(word.work))
            self._words.popleft()
            if isinstance(word, Wrote):
                self._written_bytes -= len(word.data)
            self._told.set()

    # -- the owner's side ---------------------------------------------------------------------------------------------

    def rejoin(self) -> None:
        """Has the node attached again as it is."""
        self._joining.set()

    def act(self, actions: Sequence[Action]) -> None:  # noqa: C901  one arm per action
        """Does what a session says."""
        for action in actions:
            match action:
                case Send():
                    self._put(action.frame)
                case Close():
                    self.close(action)
                case Join() if self._admits():
                    self._joining.set()
                case Join():
                    # Whoever admits it not has logged that: each of a storm would be a line here.
                    refusal = self.session.turn_away(_TOO_OFTEN, AGAIN_LATER)
                    self.act([each for each in refusal if not isinstance(each, Refused)])
                case Beat():
                    self._hear(action.telemetry)
                case Told() | Rejected():
                    self._words.append(action)
                    self._to_tell.set()
                case Wrote():
                    self._keep(action)
                case Refused():
                    self._record(action.error)
                case Latency():
                    reading = self._reading or Telemetry(at=self._clock.now())  # nodes without GPUs tell none
                    self._reading = replace(reading, latency_ms=action.seconds * 1_000)
                    self._heard(self, self._reading)
                case _:
                    assert_never(action)
        if not self.session.unanswered:
            self._answered.set()

    def _hear(self, telemetry: Telemetry | None) -> None:
        if telemetry is not None:
            latency_ms = None if self._reading is None else self._reading.latency_ms
            self._reading = telemetry = replace(telemetry, latency_ms=latency_ms)
        self._heard(self, telemetry)

    def _put(self, frame: Frame) -> None:
        if len(self._frames) >= self._limits.frames + _ANSWERS:
            self.close(Close(AGAIN_LATER, "the node does not read what it is told"))
            return
        self._frames.append(frame)
        self._to_send.set()

    def _keep(self, word: Wrote) -> None:
        if not self._epoch and self._is_behind():
            _log.warning("log of a node lost", extra=self._fields(word.work) | {"reason": "it is not attached"})
            return
        self._written_bytes += len(word.data)
        self._words.append(word)
        self._to_tell.set()

    def hold(self) -> None:
        """Takes no orders until it is attached: what is on the node is being counted."""
        self._held = True

    def attached(self, epoch: int) -> None:
        """Takes orders of this epoch from now on, and tells the cluster what has waited for it."""
        self._epoch, self._held = epoch, False
        self._to_tell.set()

    async def answered(self, patience_s: float) -> None:
        """Waits until the node has said how far everything is that it was asked for; or for so long."""
        if not self.session.unanswered:
            return
        self._answered.clear()
        await self._first_of(self._answered.wait(), self._ended.wait(), self._clock.sleep(patience_s))

    async def _first_of(self, *waits: Coroutine[Any, Any, Any]) -> None:
        waiting = {asyncio.ensure_future(wait) for wait in waits}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def close(self, close: Close) -> None:
        """Ends the connection; the first word of how stands."""
        if self.closed is None:
            self.closed = close
            self._ended.set()
            self._told.set()

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders, all or none.

        Raises:
            StaleReportError: they are for an earlier attachment.
            UnavailableError: it is not attached under this epoch yet, has gone, or takes nothing now; try again.
        """
        if self.closed is not None or self._held or epoch > self._epoch:
            raise UnavailableError(f"node {self.node_id} is not attached under epoch {epoch} here")
        if epoch < self._epoch:
            raise StaleReportError(f"node {self.node_id} is at epoch {self._epoch}, not {epoch}", field="epoch")
        # The scheduler goes on with the same orders until they are taken: where none waits, any number is.
        if self._frames and len(self._frames) + len(orders) > self._limits.frames:
            raise UnavailableError(f"node {self.node_id} has {self._limits.frames} frames to read")
        now = self._clock.now()
        for order in orders:
            self.act(self.session.deliver(order, now))

    # -- telling the cluster ------------------------------------------------------------------------------------------

    async def _tell(self, word: _Word) -> None:
        match word:
            case Told():
                report = report_of(word.state, word.message, word.work, node_id=self.node_id, epoch=self._epoch)
                if isinstance(report, ReportEnd):
                    report = replace(report, refused=word.refused)
                if report is not None and not await self._report(report) and isinstance(report, ReportPhase):
                    self.act((self.session.fence(word.work),))  # nobody wants it any more
            case Rejected():
                await self._report(
                    ReportEnd(
                        node_id=self.node_id,
                        epoch=self._epoch,
                        workload_id=word.work.workload_id,
                        attempt=word.work.attempt,
                        phase=Phase.FAILED,
                        message=str(word.error),
                        refused=True,
                    )
                )
            case Wrote():
                await self._write(word)

    async def _report(self, report: ReportPhase | ReportEnd) -> bool:
        """Tells the cluster, until it has answered; returns whether it still wants the work."""
        return await tell(
            self._plane,
            self._clock,
            report,
            epoch=lambda: self._epoch,
            lost=self._lost,
            first_s=_RETRY_S,
            longest_s=_RETRY_MAX_S,
        )

    async def _lost(self, _: ArcrayError) -> bool:
        if self._held and self.closed is None:
            await self._clock.sleep(_RETRY_S)  # it is attaching again
            return True
        self.close(REPLACED_CLOSE)
        return False

    async def _write(self, word: Wrote) -> None:
        workload_id = word.work.workload_id
        if workload_id in self._cut:
            return
        key, data = log_key(workload_id), word.data
        wait_s = _RETRY_S
        while True:
            try:
                room = self._limits.log_bytes - (await self._plane.blobs.size(key) or 0)
                if len(data) > room:
                    self._cut.add(workload_id)
                    data = data[: max(0, room)] + (_CUT if room > 0 else b"")
                if data:
                    await self._plane.blobs.append(key, data)
            except ArcrayError as error:
                if error.code not in AGAIN:
                    _log.warning("log of a node lost", extra=self._fields(word.work) | {"reason": str(error)})
                    return
                await self._clock.sleep(wait_s)
                wait_s = min(_RETRY_MAX_S, wait_s * 2)
            else:
                return

    def _record(self, error: ArcrayError) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._recorded_s >= _RECORDS_S:
            self._recorded, self._recorded_s = 0, now_s
        if self._recorded >= _RECORDS:
            self._unrecorded += 1
            return
        registration = self.session.registration
        fields = {"node_id": registration.id if registration else "", "code": error.code, "reason": str(error)}
        _log.warning("word of a node refused", extra=fields | {"others": self._unrecorded})
        self._recorded, self._unrecorded = self._recorded + 1, 0

    def _fields(self, work: Running) -> dict[str, object]:
        return {"node_id": self.node_id, "workload_id": work.workload_id, "attempt": work.attempt}
