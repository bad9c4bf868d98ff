"""The last lines of a log begin where a reader expects them, whatever the size of the log."""

from __future__ import annotations

import pytest

from arcray.core.errors import NotFoundError
from arcray.facades.rest import logs


class OneBlob:
    """A blob store with one log."""

    def __init__(self, data: bytes | None) -> None:
        self.data = data

    async def put(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    async def append(self, key: str, data: bytes) -> int:
        raise NotImplementedError

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        if self.data is None:
            raise NotFoundError(key)
        return self.data[start:end]

    async def size(self, key: str) -> int | None:
        assert key == "log"
        return None if self.data is None else len(self.data)

    async def delete(self, key: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("wanted", [1, 3, 70_000, 100_001])
async def test_tail_of_a_long_log_is_found_across_pieces(wanted: int) -> None:
    lines = [f"line {number}\n".encode() for number in range(100_000)]
    data = b"".join(lines)
    start = await logs.tail_start(OneBlob(data), "log", wanted)
    assert data[start:] == b"".join(lines[-wanted:])


async def test_log_that_is_not_there_is_empty() -> None:
    assert await logs.tail_start(OneBlob(None), "log", 5) == 0
    assert [chunk async for chunk in logs.read(OneBlob(None), "log")] == []


async def test_long_log_is_read_in_pieces() -> None:
    data = bytes(range(256)) * 4096
    pieces = [chunk async for chunk in logs.read(OneBlob(data), "log", 10)]
    assert b"".join(pieces) == data[10:]
    assert max(map(len, pieces)) == 256 * 1024
