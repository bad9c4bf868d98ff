"""The control plane as a ``NodeAgent`` sees it where another protocol lies between: a pool is told, not a scheduler.

What lives here: which command becomes which word to the pool, and its answers. What does not: any protocol (one
``Pool`` each). The agent attaches, reports and beats as it does on a Ray node; the pool is told the same by its own
words. What a pool knows nothing of (models) is told to nobody.

An attachment's epoch is counted here: a pool of another protocol has none, so what it orders is of the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from arcray.control.blobs import FsspecBlobs
from arcray.core.commands import (
    Attached,
    AttachNode,
    Command,
    Heard,
    ReportEnd,
    ReportModels,
    ReportPhase,
    ReportTelemetry,
    Running,
)
from arcray.core.errors import ArcrayError, UnsupportedError
from arcray.core.events import Topic
from arcray.core.node import NodeRegistration, Telemetry
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import Query

__all__ = ["Pool", "PoolPlane"]


class Pool(Protocol):
    """A pool that this machine joins.

    Every method raises ``UnavailableError`` where the pool cannot be reached; it is then told again.
    """

    async def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> Sequence[Running]:
        """Joins, or joins again.

        Args:
            inventory: the work found running here.

        Returns:
            The work that the pool does not want any more.
        """
        ...

    async def phase(self, report: ReportPhase) -> None:
        """Tells that work went to a live phase."""
        ...

    async def end(self, report: ReportEnd) -> None:
        """Tells that work has ended."""
        ...

    async def reading(self, telemetry: Telemetry | None) -> None:
        """Tells that this machine lives, and how it is."""
        ...


class PoolPlane:
    """Implements ``core.ports.ControlPlane`` for one agent.

    Args:
        blobs: where programs are found, and logs and results put, on this machine.
        left: directories of blobs that an earlier life has left. They are removed before the pool hears of this
            machine, which is not before it is certain that no other agent works with them.
    """

    def __init__(self, pool: Pool, blobs: FsspecBlobs, left: Sequence[str] = ()) -> None:
        self._pool = pool
        self._blobs = blobs
        self._left = left
        self._epoch = 0

    @property
    def blobs(self) -> BlobStore:
        """The blob store of this machine."""
        return self._blobs

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        """Tells the pool, one after the other; returns a reply or an error for each."""
        return [await self._tell(command) for command in commands]

    async def query(self, query: Query) -> Any:
        """Raises ``UnsupportedError``: a machine asks a pool nothing."""
        raise UnsupportedError(f"a machine of another pool cannot ask {type(query).__name__}")

    async def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        """Yields the first batch and no other: nothing is heard of a pool but orders."""
        _ = topics
        yield EventBatch(events=())
        await asyncio.get_running_loop().create_future()

    async def _tell(self, command: Command) -> Any | ArcrayError:
        try:
            match command:
                case AttachNode():
                    for directory in self._left:
                        await self._blobs.delete_below(directory)
                    self._left = ()
                    unwanted = await self._pool.attach(command.registration, command.inventory)
                    self._epoch += 1
                    return Attached(node_id=command.registration.id, epoch=self._epoch, stop=tuple(unwanted))
                case ReportTelemetry():
                    await self._pool.reading(command.telemetry)
                    return Heard()
                case ReportPhase():
                    await self._pool.phase(command)
                case ReportEnd():
                    await self._pool.end(command)
                case ReportModels():
                    pass
                case _:
                    return UnsupportedError(f"a machine of another pool does not say {type(command).__name__}")
        except ArcrayError as error:
            return error
        return None
