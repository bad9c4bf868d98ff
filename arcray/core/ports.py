"""Ports: the few interfaces through which the layers meet. Protocols only; no code.

Facades and nodes see ``ControlPlane``; the control plane sees ``NodeDriver``; time, ids and blobs come in here too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from arcray.core.commands import Command
from arcray.core.errors import ArcrayError
from arcray.core.events import Event, Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.queries import Query

__all__ = ["BlobStore", "Clock", "ControlPlane", "EventBatch", "Ids", "NodeDriver"]


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Returns the time in UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Returns seconds that never go back, for time-outs."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class Ids(Protocol):
    """Where ids come from."""

    def new(self) -> str:
        """Returns a fresh UUIDv4 in canonical form."""
        ...


class BlobStore(Protocol):
    """Bytes by key: logs, results, archives, model files. Keys are relative paths of ``[A-Za-z0-9._/-]``."""

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob, replacing any before it; readers see the old or the new one, never a part.

        Raises:
            ResourceExhaustedError: over the configured size, or the disk is full.
        """
        ...

    async def append(self, key: str, data: bytes) -> int:
        """Appends, creating the blob if needed; returns its size after it."""
        ...

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns bytes ``start`` up to ``end`` (exclusive; None is the end of the blob).

        Raises:
            NotFoundError: no such blob.
        """
        ...

    async def size(self, key: str) -> int | None:
        """Returns the blob's size in bytes, None when there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Removes the blob; removing none is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events in order.

    Args:
        gap: events were dropped before these because the reader was slow; read the state again.
    """

    events: tuple[Event, ...]
    gap: bool = False


class ControlPlane(Protocol):
    """The one door to the cluster, the same in process and across Ray."""

    @property
    def blobs(self) -> BlobStore:
        """The blob store of this cluster."""
        ...

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        """Handles commands in order.

        Returns:
            One entry per command: its reply as ``commands.py`` says, or the error that refused it. An entry is
            returned once everything it states is on disk.

        Raises:
            UnavailableError: the scheduler cannot be reached; nothing is known of the commands.
        """
        ...

    async def query(self, query: Query) -> Any:
        """Answers a query with the type that ``queries.py`` says.

        Raises:
            NotFoundError: the thing asked for does not exist, or not for that account.
        """
        ...

    def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        """Yields events published from now on, batched; ends only when its reader closes it.

        The first batch comes at once, may be empty, and says that the subscription stands: state that is read after
        it can miss nothing.
        """
        ...


class NodeDriver(Protocol):
    """How orders reach nodes of one sort."""

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a node; returns when it has them.

        Raises:
            UnavailableError: the node cannot be reached; the orders will be delivered again while its lease lasts.
            StaleReportError: the node is attached under another epoch; the orders are void.
        """
        ...
