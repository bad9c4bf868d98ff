"""Blobs as other processes see them: through the scheduler actor where they lie on its disk, else straight there.

The actor serves them in a concurrency group of its own, which is a thread and event loop of its own, so that bytes
never stand in the way of decisions. Ray carries anything over about 100 KB through its object store. A call of the
actor costs a millisecond of processor; small ones that mean the same twice go over the line, for a tenth of that.

Where they do not pass the scheduler, it is told which logs grew, for those who follow them: all logs of a process in
one message, and the next message a quarter of a second later at the soonest.

While the scheduler is away, calls that mean the same twice are made again, for as long as commands and queries wait for
it (``remote_plane``). Appending does not: whoever appends finds out how far it came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import workload_of_log
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.ports import BlobStore, Clock

__all__ = ["BlobTransport", "RemoteBlobs", "SharedBlobs", "blobs_for"]

_log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.2
_TELL_S: Final = 0.25  # as often as a log of few lines is appended to
_MEMORY: Final = "memory://"
_SMALL_BYTES: Final = 128 * 1024


class BlobTransport(Protocol):
    """How blob calls reach the scheduler."""

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the scheduler's blob store.

        Raises:
            UnavailableError: the scheduler is away.
        """
        ...

    async def logs_grew(self, sizes: Mapping[WorkloadId, int]) -> None:
        """Tells the scheduler of logs that were appended to elsewhere.

        Args:
            sizes: bytes of each one.

        Raises:
            UnavailableError: the scheduler is away.
        """
        ...


def blobs_for(settings: Settings, transport: BlobTransport, clock: Clock) -> BlobStore:
    """Returns the cluster's blob store as this process reaches it."""
    place = settings.blob_place
    if isinstance(place, Path) or place.startswith(_MEMORY):
        return RemoteBlobs(transport, clock, give_up_s=settings.gateway.call_timeout_s)
    return SharedBlobs(FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes), transport, clock)


class RemoteBlobs:
    """Implements ``core.ports.BlobStore`` over the scheduler actor. Sizes are checked there.

    Args:
        give_up_s: longest absence of the scheduler that a call waits out.
    """

    def __init__(self, transport: BlobTransport, clock: Clock, *, give_up_s: float) -> None:
        self._transport = transport
        self._line: Callable[..., Awaitable[Any]] = transport.blob
        self._clock = clock
        self._give_up_s = give_up_s

    def go_by(self, line: Callable[..., Awaitable[Any]]) -> None:
        """Has small calls go this way from now on; it asks again by itself when the scheduler dies under a call."""
        self._line = line

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob."""
        await self._call("put", key, data, small=len(data) <= _SMALL_BYTES)

    async def append(self, key: str, data: bytes) -> int:
        """Appends and returns the new size."""
        size: int = await self._transport.blob("append", key, data)
        return size

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns a range of a blob."""
        data: bytes = await self._call("get", key, start, end, small=end is not None and end - start <= _SMALL_BYTES)
        return data

    async def size(self, key: str) -> int | None:
        """Returns the size in bytes, None when there is no such blob."""
        size: int | None = await self._call("size", key, small=True)
        return size

    async def delete(self, key: str) -> None:
        """Removes the blob."""
        await self._call("delete", key, small=True)

    async def _call(self, operation: str, key: str, *arguments: Any, small: bool) -> Any:
        carry = self._line if small else self._transport.blob
        until_s = self._clock.monotonic() + self._give_up_s
        while True:
            try:
                return await carry(operation, key, *arguments)
            except UnavailableError:
                if self._clock.monotonic() + _AGAIN_S > until_s:
                    raise
            await self._clock.sleep(_AGAIN_S)


class SharedBlobs:
    """Implements ``core.ports.BlobStore`` over a store that every process reaches, and tells the scheduler of logs.

    What cannot be told is not told again: followers read on after the gap that the scheduler's absence left them.
    """

    def __init__(self, store: BlobStore, transport: BlobTransport, clock: Clock) -> None:
        self._store = store
        self._transport = transport
        self._clock = clock
        self._grown: dict[WorkloadId, int] = {}
        self._telling: asyncio.Task[None] | None = None

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob."""
        await self._store.put(key, data)

    async def append(self, key: str, data: bytes) -> int:
        """Appends and returns the new size; does not wait for the scheduler to hear of it."""
        size = await self._store.append(key, data)
        workload_id = workload_of_log(key)
        if workload_id is not None:
            self._grown[workload_id] = size
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell(), name="logs that grew")
        return size

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns a range of a blob."""
        return await self._store.get(key, start, end)

    async def size(self, key: str) -> int | None:
        """Returns the size in bytes, None when there is no such blob."""
        return await self._store.size(key)

    async def delete(self, key: str) -> None:
        """Removes the blob."""
        await self._store.delete(key)

    async def _tell(self) -> None:
        while self._grown:
            grown, self._grown = self._grown, {}
            try:
                await self._transport.logs_grew(grown)
            except ArcrayError as error:
                _log.debug("growth of logs not told", extra={"logs": len(grown), "code": error.code})
            await self._clock.sleep(_TELL_S)
