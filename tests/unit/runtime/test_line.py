from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from arcray.core.errors import UnavailableError
from arcray.runtime.line import Line, LineAddress, LineServer, dial


class Collector:
    """Keeps what a line brings."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.room = asyncio.Event()

    def on_frame(self, frame: bytes) -> None:
        self.frames.put_nowait(frame)

    def on_room(self) -> None:
        self.room.set()

    def on_lost(self, reason: str) -> None:
        self.lost.set_result(reason)


class Listening:
    """A server and the lines it has taken."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[tuple[str, Line, Collector]] = asyncio.Queue()
        self.server = LineServer(self._accept)
        self.lines: list[tuple[Line, Collector]] = []

    def _accept(self, name: str, line: Line) -> Collector:
        collector = Collector()
        self.taken.put_nowait((name, line, collector))
        self.lines.append((line, collector))
        return collector

    async def dial(self, address: LineAddress, *, node: str = "here") -> tuple[Line, Collector]:
        collector = Collector()
        line = await dial(address, collector, name="client", ray_node_id=node)
        self.lines.append((line, collector))
        return line, collector


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Listening, LineAddress]]:
    rig = Listening()
    address = await rig.server.start("127.0.0.1", "here")
    try:
        async with asyncio.timeout(5):
            yield rig, address
    finally:
        rig.server.close()
        for line, collector in rig.lines:
            line.close()
            await collector.lost


@pytest.mark.parametrize("node", ["here", "elsewhere"])
async def test_frames_of_any_size_arrive_whole_and_in_order(node: str) -> None:
    async with listening() as (rig, address):
        line, ours = await rig.dial(address, node=node)
        sent = [b"", b"a", b"b" * 70_000, b"c" * 3_000_000, b"d"]
        for frame in sent:
            line.send(frame)
        name, theirs, collector = await rig.taken.get()
        assert name == "client"
        assert [await collector.frames.get() for _ in sent] == sent
        theirs.send(b"back")
        assert await ours.frames.get() == b"back"


@pytest.mark.parametrize("node", ["here", "elsewhere"])
async def test_a_wrong_key_opens_nothing(node: str) -> None:
    async with listening() as (rig, address):
        line, ours = await rig.dial(dataclasses.replace(address, key=bytes(len(address.key))), node=node)
        line.send(b"a frame that must not be decoded")
        await ours.lost
        assert rig.taken.empty()


async def test_a_large_first_frame_is_refused_before_it_is_read() -> None:
    async with listening() as (rig, address):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write((1 << 20).to_bytes(4, "little"))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert rig.taken.empty()
        writer.close()


async def test_a_slow_reader_is_noticed_and_awaited() -> None:
    async with listening() as (rig, address):
        line, ours = await rig.dial(address)
        _, theirs, _ = await rig.taken.get()
        assert theirs._transport is not None
        theirs._transport.pause_reading()
        while not line.full:
            line.send(b"x" * 1_000_000)
        theirs._transport.resume_reading()
        await ours.room.wait()
        assert not line.full


async def test_an_end_that_closes_is_noticed_at_the_other() -> None:
    async with listening() as (rig, address):
        line, ours = await rig.dial(address, node="elsewhere")
        _, theirs, _ = await rig.taken.get()
        theirs.close()
        await ours.lost
        line.send(b"goes nowhere")


@pytest.mark.parametrize("node", ["here", "elsewhere"])
async def test_nobody_listening_is_unavailable(node: str) -> None:
    async with listening() as (_, address):
        pass
    with pytest.raises(UnavailableError, match="closed"):
        await dial(address, Collector(), name="client", ray_node_id=node)
