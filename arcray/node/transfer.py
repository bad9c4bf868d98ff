"""Blobs to files and files to blobs, in pieces: a model or an archive never has to fit in memory."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arcray.core.blobkeys import inline, result_key
from arcray.core.errors import NotFoundError, ResourceExhaustedError
from arcray.core.ids import WorkloadId
from arcray.core.ports import BlobStore

__all__ = ["fetch", "upload_results"]

_PIECE_BYTES: Final = 8 * 2**20
_SMALL_BYTES: Final = 65_536
MAX_RESULT_FILES: Final = 1_000
MAX_DEPTH: Final = 32
_MAX_ENTRIES: Final = 10 * MAX_RESULT_FILES  # with directories, links and whatever else is not kept


async def fetch(blobs: BlobStore, key: str, path: Path, *, max_bytes: int) -> int:
    """Writes a blob to a new file; returns its size.

    Raises:
        NotFoundError: no such blob.
        ResourceExhaustedError: it is larger than ``max_bytes``.
    """
    own = inline(key)
    try:
        first = await blobs.get(key, 0, _SMALL_BYTES + 1) if own is None else own
    except NotFoundError as error:
        raise NotFoundError(f"no blob {key}", field="payload.blob") from error
    if len(first) <= min(_SMALL_BYTES, max_bytes):  # at once and without a thread, as most programs are
        _write(path, first)
        return len(first)
    size = await blobs.size(key) if own is None else len(own)
    if size is None:
        raise NotFoundError(f"no blob {key}", field="payload.blob")
    if size > max_bytes:
        name = key if own is None else "the blob"
        raise ResourceExhaustedError(f"{name} has {size} bytes, at most {max_bytes} are allowed", field="payload.blob")
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        for start in range(0, size, _PIECE_BYTES):
            piece = await blobs.get(key, start, min(start + _PIECE_BYTES, size))
            await asyncio.to_thread(file.write, piece)
    partial.rename(path)
    return size


def _write(path: Path, data: bytes) -> None:
    """Makes this all that a file holds. ext4 writes a file to the disk at once that was emptied before it is filled."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(file, len(data))
        rest = data
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResultFile:
    relative: str
    size_bytes: int


async def upload_results(
    blobs: BlobStore, workload_id: WorkloadId, attempt: int, root: Path, *, max_bytes: int
) -> tuple[str, ...]:
    """Stores the regular files below ``root``; returns their keys, sorted. Links are not followed.

    Raises:
        ResourceExhaustedError: there are too many files, or too many bytes in them.
    """
    if _is_empty(root):
        return ()
    files = await asyncio.to_thread(_files, root)
    total = sum(file.size_bytes for file in files)
    if total > max_bytes:
        raise ResourceExhaustedError(f"result files have {total} bytes, at most {max_bytes} are kept", field="results")
    keys = []
    for file in files:
        key = result_key(workload_id, file.relative, attempt)
        await _upload(blobs, key, root / file.relative, file.size_bytes)
        keys.append(key)
    return tuple(sorted(keys))


def _is_empty(root: Path) -> bool:
    """Returns whether it is certainly empty: a directory that once was large takes long to be read, even when empty."""
    if root.stat().st_size > _SMALL_BYTES:
        return False
    with os.scandir(root) as entries:
        return next(entries, None) is None


def _files(root: Path) -> list[_ResultFile]:
    """Returns the regular files below a directory, sorted by path. Looks no further than is allowed.

    Raises:
        ResourceExhaustedError: there is more than is kept of any program.
    """
    found: list[_ResultFile] = []
    pending = [("", 1)]
    seen = 0
    while pending:
        below, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ResourceExhaustedError(f"result files lie more than {MAX_DEPTH} directories deep", field="results")
        with os.scandir(root / below) as entries:
            for entry in entries:
                seen += 1
                relative = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((relative, depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append(_ResultFile(relative=relative, size_bytes=size))
                if len(found) > MAX_RESULT_FILES or seen > _MAX_ENTRIES:
                    raise ResourceExhaustedError(f"more than {MAX_RESULT_FILES} result files", field="results")
    return sorted(found, key=lambda file: file.relative)


async def _upload(blobs: BlobStore, key: str, path: Path, size: int) -> None:
    """Uploads exactly ``size`` bytes: a file that still grows was counted at that size."""
    # Without O_NOFOLLOW a file swapped for a link after the walk would be read with the agent's rights.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        first = await asyncio.to_thread(file.read, min(_PIECE_BYTES, size))
        await blobs.put(key, first)
        sent = len(first)
        while sent < size and (piece := await asyncio.to_thread(file.read, min(_PIECE_BYTES, size - sent))):
            await blobs.append(key, piece)
            sent += len(piece)
