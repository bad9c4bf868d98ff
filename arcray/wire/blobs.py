"""Blobs that a facade reads whole: some are small, and stand in their own key instead of with the scheduler."""

from __future__ import annotations

from arcray.core.blobkeys import inline
from arcray.core.ports import BlobStore

__all__ = ["read_blob", "size_of_blob"]


async def read_blob(blobs: BlobStore, key: str) -> bytes:
    """Returns a blob.

    Raises:
        NotFoundError: no such blob.
    """
    own = inline(key)
    return await blobs.get(key) if own is None else own


async def size_of_blob(blobs: BlobStore, key: str) -> int:
    """Returns how many bytes a blob has; 0 where there is none."""
    own = inline(key)
    return (await blobs.size(key) or 0) if own is None else len(own)
