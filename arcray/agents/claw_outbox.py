"""What waits to be said over one connection to a claw gateway, and what was said and is not known to be heard. No I/O.

The protocol acknowledges heartbeats and nothing else, and a connection keeps the order of its frames: what was sent
before a heartbeat that is acknowledged was heard. So while something is unheard, a heartbeat is sent every second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from arcray import claw_proto as claw
from arcray.agents.claw_works import Work
from arcray.core.ports import Clock
from arcray.facades.claw.nodes import HEARTBEAT_S, METRICS_S

__all__ = ["Outbox", "Word"]

_RECEIPT_S: Final = 1.0
_BATCH: Final = 64
_WORDS: Final = 1_000
_PINGS: Final = 16
_LOGS: Final = 8
_UNHEARD: Final = 10_000


@dataclass(frozen=True, slots=True)
class Word:
    """Something to say.

    Args:
        work: whose step or piece of a log it is, if it is to be heard.
        log_bytes: how much of the log is sent once this is; 0 for what is no piece of a log.
        step: it is the oldest of the work's untold steps.
    """

    message: claw.NodeMessage
    work: Work | None = None
    log_bytes: int = 0
    step: bool = False


class Outbox:
    """Words for one gateway, over one connection after the other."""

    def __init__(self, clock: Clock, node_id: claw.NodeId) -> None:
        self._clock = clock
        self._node_id = node_id
        self._words: deque[Word] = deque()
        self._logs = 0  # of the words, those that are pieces of logs
        self._sent: deque[tuple[int, Word]] = deque()  # each with the number of heartbeats before it
        self._beats = 0
        self._acknowledged = 0
        self._pings = 0
        self._is_open = False
        self._heartbeat_s = float(HEARTBEAT_S)
        self._metrics_s = float(METRICS_S)
        self._next_beat_s = 0.0
        self._next_metrics_s = 0.0
        self._last_beat_s = 0.0

    def __len__(self) -> int:
        return len(self._words)

    @property
    def is_open(self) -> bool:
        """Whether the gateway listens."""
        return self._is_open

    @property
    def is_congested(self) -> bool:
        """Whether so much waits to be sent that nothing more should be asked for."""
        return len(self._words) >= _WORDS

    @property
    def takes_logs(self) -> bool:
        """Whether there is room for another piece of a log."""
        return self._is_open and self._logs < _LOGS

    def open(self) -> None:
        """Begins to say things: first that this machine lives, and how it is."""
        self._is_open = True
        self._next_beat_s = self._next_metrics_s = self._clock.monotonic()

    def close(self) -> None:
        """Forgets what waits, and what was not heard: the connection is gone."""
        self._is_open = False
        self._words.clear()
        self._sent.clear()
        self._logs = self._beats = self._acknowledged = self._pings = 0

    def set_intervals(self, heartbeat_s: int | None, metrics_s: int | None) -> None:
        """Speaks so often from now on; 0 and None leave it as it is."""
        now_s = self._clock.monotonic()
        if heartbeat_s:
            self._heartbeat_s = float(heartbeat_s)
            self._next_beat_s = min(self._next_beat_s, now_s + heartbeat_s)
        if metrics_s:
            self._metrics_s = float(metrics_s)
            self._next_metrics_s = min(self._next_metrics_s, now_s + metrics_s)

    def say(self, words: Iterable[Word]) -> None:
        """Takes words, unless nobody listens."""
        if self._is_open:
            said = tuple(words)
            self._words.extend(said)
            self._logs += sum(isinstance(word.message, claw.WorkloadLogs) for word in said)

    def pinged(self) -> None:
        """Answers a ping with a heartbeat, before all that waits."""
        self._pings = min(self._pings + 1, _PINGS)

    def acknowledged(self) -> Iterator[Word]:
        """Takes that the gateway has acknowledged a heartbeat; yields what it has heard by then."""
        self._acknowledged = min(self._acknowledged + 1, self._beats)
        while self._sent and self._sent[0][0] < self._acknowledged:
            yield self._sent.popleft()[1]

    def overheard(self) -> Iterator[Word]:
        """Yields what a gateway that acknowledges nothing has to be taken to have heard, so that memory is bounded."""
        while len(self._sent) > _UNHEARD:
            yield self._sent.popleft()[1]

    def due_s(self) -> float | None:
        """Returns in how many seconds there is something to send; None while nobody listens."""
        if not self._is_open:
            return None
        if self._words or self._pings:
            return 0.0
        due = min(self._next_beat_s, self._next_metrics_s)
        if self._sent:
            due = min(due, self._last_beat_s + _RECEIPT_S)
        return max(0.0, due - self._clock.monotonic())

    def take(self, metrics: claw.Metrics | None) -> list[claw.NodeMessage]:
        """Returns the next messages to send, in order; [] where nothing is due.

        Args:
            metrics: the newest reading, if there is one.
        """
        return list(self._messages(metrics)) if self._is_open else []

    def _messages(self, metrics: claw.Metrics | None) -> Iterator[claw.NodeMessage]:
        now_s = self._clock.monotonic()
        for _ in range(self._pings):
            yield self._beat()
        self._pings = 0
        for _ in range(min(len(self._words), _BATCH)):
            word = self._words.popleft()
            self._logs -= isinstance(word.message, claw.WorkloadLogs)
            if word.work is not None:
                self._sent.append((self._beats, word))
            yield word.message
        receipt_due = bool(self._sent) and now_s >= self._last_beat_s + _RECEIPT_S
        if now_s >= self._next_beat_s or receipt_due:
            yield self._beat()
        if now_s >= self._next_metrics_s:
            self._next_metrics_s = now_s + self._metrics_s
            if metrics is not None:
                yield metrics

    def _beat(self) -> claw.Heartbeat:
        self._beats += 1
        self._last_beat_s = self._clock.monotonic()
        self._next_beat_s = self._last_beat_s + self._heartbeat_s
        return claw.Heartbeat(node_id=self._node_id, timestamp=claw.Timestamp.of(self._clock.now()))
