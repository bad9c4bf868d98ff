"""Open streams: sockets and long answers end once what opened them is worthless, as everything else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.websockets import WebSocket

from arcray.core.errors import ArcrayError

__all__ = ["answer_until", "serve_until"]

_T = TypeVar("_T")
_POLICY_VIOLATION: Final = 1008


async def serve_until(
    serving: Coroutine[Any, Any, None], worthless: Coroutine[Any, Any, ArcrayError], socket: WebSocket
) -> None:
    """Serves a WebSocket to its end, or until its credentials are worthless, which its close frame then says."""
    served, ended = asyncio.ensure_future(serving), asyncio.ensure_future(worthless)
    try:
        await asyncio.wait({served, ended}, return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            served.result()
            return
        await _cancelled(served)
        with suppress(RuntimeError):  # it has been closed just now
            await socket.close(_POLICY_VIOLATION, ended.result().message)
    finally:
        await _cancelled(served)
        await _cancelled(ended)


async def answer_until(
    chunks: AsyncIterator[_T], worthless: Callable[[], Coroutine[Any, Any, ArcrayError]]
) -> AsyncIterator[_T]:
    """Yields an answer to its end, or until the credentials of who asked are worthless.

    Args:
        worthless: waits for that; called once somebody reads, which who has gone already does not.
    """
    ended = asyncio.ensure_future(worthless())
    chunk: asyncio.Future[_T] | None = None
    try:
        while True:
            chunk = asyncio.ensure_future(_next(chunks))
            await asyncio.wait({chunk, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not chunk.done():
                return
            try:
                yield chunk.result()
            except StopAsyncIteration:
                return
    finally:
        if chunk is not None:
            await _cancelled(chunk)
        await _cancelled(ended)


async def _next(chunks: AsyncIterator[_T]) -> _T:
    return await anext(chunks)


async def _cancelled(future: asyncio.Future[Any]) -> None:
    future.cancel()
    await asyncio.gather(future, return_exceptions=True)
