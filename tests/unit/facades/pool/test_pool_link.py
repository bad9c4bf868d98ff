"""What waits for one slow socket, and when it is too much."""

from __future__ import annotations

import pytest

from arcray.facades.pool.link import Link
from arcray.wire.identity import LOCAL


@pytest.mark.parametrize("frames", [("a",) * 4, ("a" * 6, "b" * 5)])
async def test_a_socket_that_does_not_keep_up_is_closed_by_number_or_size(frames: tuple[str, ...]) -> None:
    link = Link(1, LOCAL, most=3, most_characters=10)
    for frame in frames[:-1]:
        link.send(frame)
    assert len(link) == len(frames) - 1
    link.send(frames[-1])
    assert link.closed == (1008, "this socket does not keep up")
    assert len(link) == 0


async def test_what_everybody_is_told_counts_by_number_alone() -> None:
    link = Link(1, LOCAL, most=3, most_characters=10)
    for _ in range(3):
        link.tell("a" * 11)
    assert len(link) == 3
    link.tell("a")
    assert link.closed == (1008, "this socket does not keep up")


async def test_a_frame_alone_may_have_any_size_and_what_was_taken_waits_no_more() -> None:
    link = Link(1, LOCAL, most=3, most_characters=10)
    for _ in range(3):
        link.send("a" * 11)
        assert await link.take() == ("a" * 11,)
    assert link.closed is None
