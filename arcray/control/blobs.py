"""The blob store over fsspec: local disk by default, any object store by URL.

What lives here: keys, sizes, atomic replacement, and what a full disk means. What does not: which keys exist
(``core.blobkeys``). Every call runs in a thread, because fsspec and disks block.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)

__all__ = ["Entry", "FsspecBlobs"]

_T = TypeVar("_T")

_KEY: Final = re.compile(r"(?!.*//)[\w.=-][\w.=/-]{0,510}[\w.=-]|[\w.=-]")
_THREADS: Final = 16
_PARTIAL: Final = ".partial"  # blobs being written; same file system, so that the last step is a rename
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MODIFIED: Final = ("LastModified", "last_modified", "mtime", "updated", "created")  # as stores call it
# fsspec tells of none whether it can be written.
_READ_ONLY: Final = frozenset(
    {"data", "gist", "git", "github", "http", "https", "libarchive", "reference", "tar", "zip"}
)
_MISPLACED: Final = (IsADirectoryError, NotADirectoryError, FileExistsError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a directory; ``modified_at`` is None where the store does not say."""

    name: str
    modified_at: datetime | None


class FsspecBlobs:
    """Bytes by key below one place.

    Args:
        place: a directory, or any fsspec URL.
        max_blob_bytes: largest single blob.

    Raises:
        InvalidArgumentError: the URL is of no store that fsspec knows here, or of one that cannot be written.
    """

    def __init__(self, place: Path | str, *, max_blob_bytes: int) -> None:
        fs, root = _opened(place)
        self._fs: Any = fs
        self._root = root.rstrip("/")
        self._local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
        self._limit = max_blob_bytes
        self._writes = count()
        # Its own: a disk that hangs must hold up nothing else that the process does in threads.
        self._threads = ThreadPoolExecutor(_THREADS, "blobs")

    async def put(self, key: str, data: bytes) -> None:
        """Writes a whole blob; on a local disk it is there after a power cut too.

        Raises:
            ResourceExhaustedError: over the configured size, or the disk is full.
        """
        if len(data) > self._limit:
            raise ResourceExhaustedError(f"a blob takes {self._limit} bytes at the most, this one has {len(data)}")
        await self._run(key, self._put, data)

    async def append(self, key: str, data: bytes) -> int:
        """Appends and returns the new size. Calls for one key must not overlap."""
        return await self._run(key, self._append, data)

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns a range of a blob.

        Raises:
            NotFoundError: no such blob.
        """
        if start < 0 or (end is not None and end < 0):
            raise InvalidArgumentError("must not be negative", field="range")
        return await self._run(key, self._get, start, end)

    async def size(self, key: str) -> int | None:
        """Returns the size in bytes, None when there is no such blob."""
        try:
            return await self._run(key, self._size)
        except NotFoundError:
            return None

    async def delete(self, key: str) -> None:
        """Removes the blob; removing none is no error."""
        try:
            await self._run(key, self._delete)
        except NotFoundError:
            return

    async def delete_below(self, prefix: str) -> None:
        """Removes every blob whose key begins with this directory; removing none is no error."""
        try:
            await self._run(prefix.rstrip("/"), self._delete_below)
        except NotFoundError:
            return

    async def entries(self, directory: str, count: int) -> AsyncIterator[list[Entry]]:
        """Yields what stands in a directory, not below it, at most ``count`` at a time and in no order.

        On a local disk it is read as it is asked for, so a directory of millions takes no memory.
        """
        path = f"{self._root}/{_checked(directory)}"
        listing = await asyncio.to_thread(self._listing, path)
        try:
            while found := await self._run(directory, lambda _: list(islice(listing, count))):
                yield found
        finally:
            listing.close()

    # -- in a thread ---------------------------------------------------------------------------------------------

    async def _run(self, key: str, work: Callable[..., _T], *args: Any) -> _T:
        path = f"{self._root}/{_checked(key)}"
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, path, *args)
        except OSError as error:
            raise _mapped(error, key) from error

    def _put(self, path: str, data: bytes) -> None:
        if not self._local:
            self._fs.pipe_file(path, data)  # object stores replace atomically
            return
        target = Path(path)
        partial = Path(self._root, _PARTIAL, f"{os.getpid()}-{next(self._writes)}")
        self._make(partial.parent)
        self._make(target.parent)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        _sync_directory(target.parent)

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)  # logs and results are for nobody else
            directory.mkdir(parents=True, exist_ok=True)

    def _append(self, path: str, data: bytes) -> int:
        if self._local:
            self._make(Path(path).parent)
        with self._fs.open(path, "ab") as file:
            size = int(file.seek(0, os.SEEK_END)) + len(data)  # fsspec opens a local file at its beginning
            if size > self._limit:
                raise ResourceExhaustedError(f"a blob takes {self._limit} bytes at the most")
            file.write(data)
        return size

    def _get(self, path: str, start: int, end: int | None) -> bytes:
        data: bytes = self._fs.cat_file(path, start=start, end=end)
        return data

    def _size(self, path: str) -> int:
        information = self._fs.info(path)
        if information["type"] != "file":
            raise FileNotFoundError(path)
        return int(information["size"])

    def _delete(self, path: str) -> None:
        self._fs.rm_file(path)

    def _listing(self, path: str) -> Generator[Entry, None, None]:
        if self._local:
            if not Path(path).is_dir():
                return
            with os.scandir(path) as found:
                for one in found:
                    yield Entry(name=one.name, modified_at=datetime.fromtimestamp(one.stat().st_mtime, UTC))
        elif self._fs.isdir(path):
            for one in self._fs.ls(path, detail=True):
                modified_at = next((one[key] for key in _MODIFIED if isinstance(one.get(key), datetime)), None)
                yield Entry(name=one["name"].rstrip("/").rpartition("/")[2], modified_at=modified_at)

    def _delete_below(self, path: str) -> None:
        if self._fs.isdir(path):
            self._fs.rm(path, recursive=True)


def _opened(place: Path | str) -> tuple[Any, str]:
    if isinstance(place, Path):  # fsspec would read more into some letters than a path means by them
        return LocalFileSystem(), str(place.absolute())
    for part in place.split("::"):  # of one that goes through others
        scheme = part.partition("://")[0]
        if scheme in _READ_ONLY:
            raise InvalidArgumentError(f"cannot use this blob store: {scheme} cannot be written", field="blobs.url")
    try:
        fs, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise InvalidArgumentError(f"cannot use this blob store: {error}", field="blobs.url") from error
    except Exception as error:  # each store has a library of its own, which raises what it likes
        reason = f"{type(error).__name__}: {error}"
        raise InvalidArgumentError(f"cannot use this blob store: {reason}", field="blobs.url") from error
    return fs, str(root)


def _checked(key: str) -> str:
    parts = key.split("/")
    if not _KEY.fullmatch(key) or "." in parts or ".." in parts or parts[0] == _PARTIAL:
        raise InvalidArgumentError("is not a relative path of letters, digits and . _ - = /", field="key")
    return key


def _mapped(error: OSError, key: str) -> ArcrayError:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"no blob {key}", field="key")
    if error.errno in _NO_SPACE:
        return ResourceExhaustedError(f"the blob store is full: {error.strerror}")
    if isinstance(error, _MISPLACED):
        return ConflictError(f"{key} is in the way of another blob, or another of it", field="key")
    return UnavailableError(f"the blob store failed: {error.strerror or error}")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
