"""Blobs as other processes see them: through the scheduler actor where they lie on its disk, else straight there.

The actor serves them in a concurrency group of its own, which is a thread and event loop of its own, so that bytes
never stand in the way of decisions. Ray carries anything over about 100 KB through its object store.

While the scheduler is away, calls that mean the same twice are made again, for as long as commands and queries wait for
it (``remote_plane``). Appending does not: whoever appends finds out how far it came.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.errors import UnavailableError
from arcray.core.ports import BlobStore, Clock

__all__ = ["BlobTransport", "RemoteBlobs", "blobs_for"]

_AGAIN_S: Final = 0.2
_MEMORY: Final = "memory://"


class BlobTransport(Protocol):
    """How blob calls reach the scheduler."""

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the scheduler's blob store.

        Raises:
            UnavailableError: the scheduler is away.
        """
        ...


def blobs_for(settings: Settings, transport: BlobTransport, clock: Clock) -> BlobStore:
    """Returns the cluster's blob store as this process reaches it."""
    place = settings.blob_place
    if isinstance(place, Path) or place.startswith(_MEMORY):
        return RemoteBlobs(transport, clock, give_up_s=settings.gateway.call_timeout_s)
    return FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes)


class RemoteBlobs:
    """Implements ``core.ports.BlobStore`` over the scheduler actor. Sizes are checked there.

    Args:
        give_up_s: longest absence of the scheduler that a call waits out.
    """

    def __init__(self, transport: BlobTransport, clock: Clock, *, give_up_s: float) -> None:
        self._transport = transport
        self._clock = clock
        self._give_up_s = give_up_s

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob."""
        await self._call("put", key, data)

    async def append(self, key: str, data: bytes) -> int:
        """Appends and returns the new size."""
        size: int = await self._transport.blob("append", key, data)
        return size

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns a range of a blob."""
        data: bytes = await self._call("get", key, start, end)
        return data

    async def size(self, key: str) -> int | None:
        """Returns the size in bytes, None when there is no such blob."""
        size: int | None = await self._call("size", key)
        return size

    async def delete(self, key: str) -> None:
        """Removes the blob."""
        await self._call("delete", key)

    async def _call(self, operation: str, key: str, *arguments: Any) -> Any:
        until_s = self._clock.monotonic() + self._give_up_s
        while True:
            try:
                return await self._transport.blob(operation, key, *arguments)
            except UnavailableError:
                if self._clock.monotonic() + _AGAIN_S > until_s:
                    raise
            await self._clock.sleep(_AGAIN_S)
