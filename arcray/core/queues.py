"""Queues: every bounded place where something waits, by a name from one closed set.

What lives here: the names, and what a reading is. What does not: the queues themselves; whoever keeps one says how long
it is. Every limit of the settings that bounds a queue has its name here, which a test holds to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

__all__ = ["Meter", "Queue", "QueueReading"]


class Queue(StrEnum):
    """A kind of queue; where a process has several of a kind, the longest one counts."""

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
    SOCKETS = "sockets"  # open telemetry WebSockets
    SOCKET_FRAMES = "socket_frames"  # frames that wait for one of those
    LOGINS = "logins"  # passwords that are worked on, or wait for their turn
    CLAW_SOCKETS = "claw_sockets"  # open WebSockets of claw nodes
    CLAW_FRAMES = "claw_frames"  # frames that wait for one of those
    CLAW_WORDS = "claw_words"  # what one claw node has said and the scheduler has not taken
    DEVICE_SOCKETS = "device_sockets"  # open WebSockets of devices that lend
    DEVICE_FRAMES = "device_frames"  # frames that wait for one of those
    TASKS = "tasks"  # tasks of one socket that it waits for
    DIALS = "dials"  # orders that wait for one worker, or are on their way to it
    # kept by a machine
    WORK = "work"  # orders taken, and ends not yet acknowledged


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """How long a queue is now, and how long it may be."""

    queue: Queue
    length: int
    limit: int


Meter: TypeAlias = Callable[[], Iterable[QueueReading]]
"""Reads queues that somebody keeps; costs little, never waits."""
