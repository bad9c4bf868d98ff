"""Queues: every bounded place where something waits, by name.

What lives here: the names of those that there are whatever protocols are served, and what a reading is. What does
not: the queues themselves; whoever keeps one says how long it is. A protocol names its own in its folder and declares
them in its descriptor, so that the set is closed all the same. Every limit of the settings that bounds a queue has a
name in one of these places, which a test holds to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

__all__ = ["Meter", "Queue", "QueueReading"]


class Queue(StrEnum):
    """A kind of queue that no protocol brings; where a process has several of a kind, the longest one counts."""

    # kept by the scheduler
    PENDING = "pending"  # workloads that wait for a place
    WAITING = "waiting"  # inference requests that wait for a slot
    COMMANDS = "commands"  # replies that wait for a commit
    CALLERS = "callers"  # callers that wait for the end of what they submitted
    LOOKUPS = "lookups"  # submissions that may repeat what only the rows remember
    BATCH = "batch"  # events of the transaction that is being gathered
    ORDERS = "orders"  # undelivered orders of one node
    EVENTS = "events"  # events that one reader has yet to read
    CLIENT_EVENTS = "client_events"  # events on their way to one process
    # kept by a gateway
    ASKS = "asks"  # commands and queries without an answer of the scheduler
    STREAM_EVENTS = "stream_events"  # events that came over the line and wait for one reader
    READER_EVENTS = "reader_events"  # events that wait for one reader of the process's fan-out
    CONNECTIONS = "connections"  # open HTTP connections of one listener
    # kept by a machine
    WORK = "work"  # orders taken, and ends not yet acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """How long a queue is now, and how long it may be.

    Args:
        queue: one of ``Queue``, or one that a protocol has declared.
    """

    queue: StrEnum
    length: int
    limit: int


Meter: TypeAlias = Callable[[], Iterable[QueueReading]]
"""Reads queues that somebody keeps; costs little, never waits."""
