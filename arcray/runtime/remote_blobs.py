"""Blobs as other processes see them: through the scheduler actor where they lie on its disk, else straight there.

The actor serves them in a concurrency group of its own, which is a thread and event loop of its own, so that bytes
never stand in the way of decisions. Ray carries anything over about 100 KB through its object store.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.ports import BlobStore

__all__ = ["BlobTransport", "RemoteBlobs", "blobs_for"]

_LOCAL: Final = ("file://", "/", "local://", "memory://")


class BlobTransport(Protocol):
    """How blob calls reach the scheduler."""

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the scheduler's blob store.

        Raises:
            UnavailableError: the scheduler is away.
        """
        ...


def blobs_for(settings: Settings, transport: BlobTransport) -> BlobStore:
    """Returns the cluster's blob store as this process reaches it."""
    if settings.blob_url.startswith(_LOCAL):
        return RemoteBlobs(transport)
    return FsspecBlobs(settings.blob_url, max_blob_bytes=settings.blobs.max_blob_bytes)


class RemoteBlobs:
    """Implements ``core.ports.BlobStore`` over the scheduler actor. Sizes are checked there."""

    def __init__(self, transport: BlobTransport) -> None:
        self._transport = transport

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob."""
        await self._transport.blob("put", key, data)

    async def append(self, key: str, data: bytes) -> int:
        """Appends and returns the new size."""
        size: int = await self._transport.blob("append", key, data)
        return size

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns a range of a blob."""
        data: bytes = await self._transport.blob("get", key, start, end)
        return data

    async def size(self, key: str) -> int | None:
        """Returns the size in bytes, None when there is no such blob."""
        size: int | None = await self._transport.blob("size", key)
        return size

    async def delete(self, key: str) -> None:
        """Removes the blob."""
        await self._transport.blob("delete", key)
