"""What waits for one slow socket, and when it is too much."""

from __future__ import annotations

import asyncio

import pytest

from arcray.facades.pool.link import Link
from arcray.wire.identity import LOCAL


class Peer:
    """The other end, which reads when ``reads`` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.got: list[str] = []

    def write_now(self, frame: str) -> bool:
        if self.reads.is_set():
            self.got.append(frame)
        return self.reads.is_set()

    async def write(self, frame: str) -> None:
        await self.reads.wait()
        self.got.append(frame)


async def send_all(link: Link, peer: Peer) -> None:
    while True:
        for frame in await link.take():
            await peer.write(frame)


@pytest.mark.parametrize("frames", [("a",) * 4, ("a" * 6, "b" * 5)])
async def test_a_socket_that_does_not_keep_up_is_closed_by_number_or_size(frames: tuple[str, ...]) -> None:
    link = Link(1, LOCAL, Peer().write_now, most=3, most_characters=10)
    for frame in frames[:-1]:
        link.send(frame)
    assert len(link) == len(frames) - 1
    link.send(frames[-1])
    assert link.closed == (1008, "this socket does not keep up")
    assert len(link) == 0


async def test_what_everybody_is_told_counts_by_number_alone() -> None:
    link = Link(1, LOCAL, Peer().write_now, most=3, most_characters=10)
    for _ in range(3):
        link.tell("a" * 11)
    assert len(link) == 3
    link.tell("a")
    assert link.closed == (1008, "this socket does not keep up")


async def test_a_frame_alone_may_have_any_size_and_what_was_taken_waits_no_more() -> None:
    link = Link(1, LOCAL, Peer().write_now, most=3, most_characters=10)
    for _ in range(3):
        link.send("a" * 11)
        assert await link.take() == ("a" * 11,)
    assert link.closed is None


async def test_what_waits_for_nothing_is_sent_at_once() -> None:
    peer = Peer()
    peer.reads.set()
    link = Link(1, LOCAL, peer.write_now, most=3, most_characters=10)
    sending = asyncio.create_task(send_all(link, peer))
    link.tell("before anybody sends")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in range(9):
        link.tell(f"to all {number}")
        link.send(f"to one {number}")
    assert peer.got == ["before anybody sends", *(f"to {who} {n}" for n in range(9) for who in ("all", "one"))]
    assert (link.closed, len(link)) == (None, 0)
    sending.cancel()


async def test_a_socket_that_reads_later_gets_each_frame_once_and_in_order() -> None:
    peer = Peer()
    link = Link(1, LOCAL, peer.write_now, most=9, most_characters=10)
    sending = asyncio.create_task(send_all(link, peer))
    await asyncio.sleep(0)
    for number in range(3):
        link.tell(str(number))
    await asyncio.sleep(0)
    link.tell("3")
    assert peer.got == []
    peer.reads.set()
    for _ in range(9):
        await asyncio.sleep(0)
    link.tell("4")
    assert peer.got == ["0", "1", "2", "3", "4"]
    sending.cancel()
