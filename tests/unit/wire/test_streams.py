from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from starlette.websockets import WebSocket

from arcray.core.errors import ArcrayError, UnauthenticatedError
from arcray.wire.streams import answer_until, serve_until


class Socket:
    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


class Verdict:
    """Credentials that are good until somebody says otherwise."""

    def __init__(self) -> None:
        self.said: asyncio.Future[ArcrayError] = asyncio.get_running_loop().create_future()
        self.dropped = False

    async def wait(self) -> ArcrayError:
        try:
            return await self.said
        except asyncio.CancelledError:
            self.dropped = True
            raise


async def test_a_socket_is_closed_with_the_reason_and_its_endpoint_is_cleaned_up() -> None:
    verdict, socket, ended = Verdict(), Socket(), asyncio.Event()

    async def endpoint() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    serving = asyncio.create_task(serve_until(endpoint(), verdict.wait(), cast("WebSocket", socket)))
    await asyncio.sleep(0)
    verdict.said.set_result(UnauthenticatedError("the key has expired"))
    await serving
    assert ended.is_set()
    assert socket.closed == [(1008, "the key has expired")]


async def test_a_socket_that_ends_by_itself_ends_as_it_did() -> None:
    verdict, socket = Verdict(), Socket()

    async def endpoint() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await serve_until(endpoint(), verdict.wait(), cast("WebSocket", socket))
    assert (verdict.dropped, socket.closed) == (True, [])


async def test_an_answer_ends_between_two_chunks() -> None:
    verdict, more, ended = Verdict(), asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[str]:
        try:
            yield "one"
            await more.wait()
            yield "secret"
        finally:
            ended.set()

    answer = answer_until(chunks(), verdict.wait)
    assert await anext(answer) == "one"
    verdict.said.set_result(UnauthenticatedError())
    assert [chunk async for chunk in answer] == []
    assert ended.is_set()


async def test_an_answer_that_ends_by_itself_is_whole() -> None:
    verdict = Verdict()

    async def chunks() -> AsyncIterator[Any]:
        yield 1
        yield 2

    assert [chunk async for chunk in answer_until(chunks(), verdict.wait)] == [1, 2]
    assert verdict.dropped
