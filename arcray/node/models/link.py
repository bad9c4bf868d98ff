"""The agent's end of a model process's socket. Requests of one turn of the loop leave in one frame."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable
from typing import Final, cast

from arcray.core.errors import UnavailableError
from arcray.node.models.frames import (
    BROKEN,
    CANCEL,
    DONE,
    LOAD,
    PING,
    PONG,
    READY,
    RUN,
    STATE,
    FrameReader,
    LoadSpec,
    pack,
)

__all__ = ["Answer", "ModelBrokenError", "ModelLink"]


_BUFFER_BYTES: Final = 1 << 20
_BATCH_BYTES: Final = 64 * 2**20  # of inputs in one frame; where there is more of them, each has one of its own

Answer = tuple[int, bool, bytes | str, float]
"""Sequence number, whether it worked, the output or the message, milliseconds."""


class ModelBrokenError(UnavailableError):
    """The model cannot be loaded; its log says why."""


class ModelLink(asyncio.Protocol):
    """A connection to one model process."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.on_answers: Callable[[list[Answer]], None] = lambda _: None
        self.on_state: Callable[[str], None] = lambda _: None
        self.pid = 0
        self._loop = loop
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[int] = loop.create_future()
        self._pong: asyncio.Future[None] = loop.create_future()
        self._requests: list[tuple[int, bytes | None, int]] = []
        self._request_bytes = 0
        self._cancels: list[int] = []
        self._flushing = False

    @classmethod
    async def open(cls, connection: socket.socket) -> ModelLink:
        """Takes over a connected socket."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        _, link = await asyncio.get_running_loop().create_unix_connection(cls, sock=connection)
        return link

    async def load(self, spec: LoadSpec) -> int:
        """Has the model loaded; returns the pid of its process.

        Raises:
            ModelBrokenError: its code or file raised, or the process ended; says what is known.
        """
        self._write(pack(LOAD, dataclasses.asdict(spec)))
        self.pid = await asyncio.shield(self._ready)
        return self.pid

    def send_request(self, seq: int, data: bytes | None, context_tokens: int) -> None:
        """Puts a request into the next frame."""
        self._requests.append((seq, data, context_tokens))
        self._request_bytes += len(data) if data is not None else 0
        self._flush_soon()

    def send_cancel(self, seq: int) -> None:
        """Asks to give a request up."""
        self._cancels.append(seq)
        self._flush_soon()

    def ping(self) -> asyncio.Future[None]:
        """Asks for a sign of life; the future is done once it comes."""
        self._pong = self._loop.create_future()
        self._write(pack(PING, None))
        return self._pong

    def close(self) -> None:
        """Closes the socket, which ends the process."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # No isinstance: the transports of uvloop, which Ray's actors run on, do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        for kind, body in self._reader.feed(data):
            if kind == DONE:
                self.on_answers(body)
            elif kind == READY:
                self._ready.set_result(body)
            elif kind == PONG:
                if not self._pong.done():
                    self._pong.set_result(None)
            elif kind == STATE:
                self.on_state(body)
            elif kind == BROKEN:
                self._fail(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._fail(f"its process ended{f': {exc}' if exc else ''}")

    def _fail(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(ModelBrokenError(reason))
            self._ready.exception()  # nobody may be waiting any more; that is no error of its own

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._requests:
            requests, self._requests = self._requests, []
            if self._request_bytes > _BATCH_BYTES:
                for request in requests:
                    self._write(pack(RUN, [request]))
            else:
                self._write(pack(RUN, requests))
            self._request_bytes = 0
        if self._cancels:
            cancels, self._cancels = self._cancels, []
            self._write(pack(CANCEL, cancels))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
