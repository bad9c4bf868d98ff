"""Logs on their way to the blob store: chunked, paced, bounded.

A writer waits (so the pipe fills and the program with it) rather than buffering without limit, and the store gets a
few appends a second of one log at the most. An append whose answer was lost, because the scheduler died under it, is
not made twice: the size of the blob says how much of it is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from arcray.core.errors import ArcrayError, ResourceExhaustedError
from arcray.core.ports import BlobStore, Clock

__all__ = ["LogWriter"]

_log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 262_144  # largest append, and what is buffered before a writer waits
_TRICKLE_S: Final = 0.25  # between small appends: what a follower of the log notices
_BYTES_PER_S: Final = 8 * 2**20  # of one log
_RETRY_S: Final = 1.0
_CLOSE_TRIES: Final = 10


class LogWriter:
    """Appends one attempt's output to its log. An asynchronous context manager; leaving it writes the rest.

    Args:
        max_bytes: kept. What follows is dropped and a note says so; with ``keep_newest``, what came first is.
        keep_newest: for work that runs without an end; ``max_bytes`` is then about the whole blob.
        flushed: told the bytes stored so far, after each append.
    """

    def __init__(
        self,
        blobs: BlobStore,
        key: str,
        *,
        max_bytes: int,
        clock: Clock,
        keep_newest: bool = False,
        flushed: Callable[[int], None] | None = None,
    ) -> None:
        self._blobs = blobs
        self._key = key
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._clock = clock
        self._buffer = bytearray()
        self._data = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closing = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._keep_newest = keep_newest
        self._told = flushed
        self._stored = 0
        self._size: int | None = None  # of the blob after the last append; unknown before the first
        self._unanswered = 0  # bytes of an append that may have been made

    @property
    def size(self) -> int | None:
        """Bytes of the blob; None where that is not known, as before anything was written."""
        return None if self._unanswered else self._size

    @property
    def unused(self) -> bool:
        """Whether nothing was written."""
        return self._size is None and not self._unanswered

    async def __aenter__(self) -> Self:
        self._flusher = asyncio.create_task(self._flush_until_closed(), name=f"log {self._key}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._data.set()
        if self._flusher is not None:
            await self._flusher

    async def write(self, data: bytes) -> None:
        """Takes output; waits while too much is on its way."""
        if self._left <= 0:
            return
        kept = data if self._keep_newest else data[: self._left]
        self._buffer += kept
        if not self._keep_newest:
            self._left -= len(kept)
            if self._left <= 0:
                self._buffer += f"\n[log cut: {self._max_bytes} bytes kept]\n".encode()
        self._data.set()
        if len(self._buffer) >= _CHUNK_BYTES:
            self._space.clear()
            await self._space.wait()

    async def note(self, text: str) -> None:
        """Adds a line of ours."""
        await self.write(f"[arcray] {text}\n".encode())

    async def _flush_until_closed(self) -> None:
        failures = 0
        while True:
            await self._data.wait()
            chunk = bytes(self._buffer[:_CHUNK_BYTES])
            if not chunk:
                if self._closing.is_set():
                    return
                self._data.clear()
                continue
            try:
                size = await self._append(chunk)
                if self._keep_newest and size > self._max_bytes:
                    await self._drop_oldest(size)
            except ResourceExhaustedError as error:
                _log.warning("log given up", extra={"key": self._key, "reason": error.message})
                self._left = 0
            except (ArcrayError, OSError) as error:
                failures += 1
                if self._closing.is_set() and failures > _CLOSE_TRIES:
                    _log.warning("log incomplete", extra={"key": self._key, "reason": str(error)})
                    return
                await self._clock.sleep(_RETRY_S)
                continue
            failures = 0
            del self._buffer[: len(chunk)]
            self._stored += len(chunk)
            if self._told is not None:
                self._told(self._stored)
            if len(self._buffer) < _CHUNK_BYTES:
                self._space.set()
            await self._pace(len(chunk))

    async def _append(self, chunk: bytes) -> int:
        """Appends what is not stored yet; returns the size of the blob."""
        rest = chunk
        if self._unanswered:
            size = await self._blobs.size(self._key) or 0
            rest = chunk[await self._made(chunk[: self._unanswered], size) :]
            self._size, self._unanswered = size, 0
        if rest:
            self._unanswered = len(rest)
            self._size = await self._blobs.append(self._key, rest)
            self._unanswered = 0
        assert self._size is not None
        return self._size

    async def _made(self, tried: bytes, size: int) -> int:
        """Returns how much of an append that was not answered is in a blob of this size."""
        if self._size is not None:
            grown = size - self._size
            return grown if 0 <= grown <= len(tried) else 0
        if size < len(tried):
            return 0
        return len(tried) if await self._blobs.get(self._key, size - len(tried)) == tried else 0

    async def _drop_oldest(self, size: int) -> None:
        """Rewrites the blob with its newest half, from the start of a line."""
        kept = await self._blobs.get(self._key, size - self._max_bytes // 2)
        _, _, lines = kept.partition(b"\n")
        cut = b"[log cut: older lines are gone]\n" + (lines or kept)
        await self._blobs.put(self._key, cut)
        self._size = len(cut)

    async def _pace(self, size: int) -> None:
        """Waits as long as this append was worth; closing ends the wait for more data, not the rate."""
        await_s = size / _BYTES_PER_S
        if len(self._buffer) >= _CHUNK_BYTES or self._closing.is_set():
            if self._buffer:
                await self._clock.sleep(await_s)
            return
        sleeper = asyncio.ensure_future(self._clock.sleep(max(_TRICKLE_S, await_s)))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({sleeper, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            closing.cancel()
