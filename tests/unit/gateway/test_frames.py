from __future__ import annotations

import logging

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.uri import parse_uri

from arcray.gateway.frames import BURST_S, FrameLimit, PortionedServer

TINY = Frame(Opcode.TEXT, b"x").serialize(mask=True)


def opened() -> PortionedServer:
    server = PortionedServer(max_size=1024, logger=logging.getLogger(__name__))
    client = ClientProtocol(parse_uri("ws://127.0.0.1/"))
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    server.data_to_send()
    return server


def parsed(server: PortionedServer, data: bytes, *, allowed: int) -> int:
    server.allow(allowed)
    server.receive_data(data)
    return len(server.events_received())


def test_no_more_frames_are_parsed_than_are_allowed() -> None:
    server = opened()
    assert parsed(server, TINY * 10, allowed=4) == 4
    assert server.behind
    assert parsed(server, b"", allowed=4) == 4
    assert server.behind
    assert parsed(server, b"", allowed=4) == 2
    assert not server.behind


def test_a_portion_that_is_all_there_is_leaves_nothing_behind() -> None:
    server = opened()
    assert parsed(server, TINY * 4, allowed=4) == 4
    assert not server.behind


def test_what_comes_while_frames_wait_is_parsed_after_them() -> None:
    server = opened()
    parsed(server, TINY * 3, allowed=2)
    server.allow(8)
    server.receive_data(Frame(Opcode.BINARY, b"last").serialize(mask=True))
    first, last = server.events_received()
    assert isinstance(first, Frame)
    assert isinstance(last, Frame)
    assert (bytes(first.data), bytes(last.data)) == (b"x", b"last")


def test_a_frame_whose_rest_has_not_come_is_not_behind() -> None:
    server = opened()
    assert parsed(server, TINY + TINY[:3], allowed=2) == 1
    assert not server.behind
    assert parsed(server, TINY[3:], allowed=2) == 1


def test_a_frame_that_had_begun_ends_without_leave_and_waits_to_be_fetched() -> None:
    server = opened()
    parsed(server, TINY[:3], allowed=1)
    server.allow(0)
    server.receive_data(TINY[3:])
    assert server.behind
    assert len(server.events_received()) == 1
    assert not server.behind


def test_a_fault_is_not_left_lying() -> None:
    server = opened()
    unmasked = Frame(Opcode.TEXT, b"x").serialize(mask=False)
    parsed(server, unmasked[:1], allowed=1)
    server.allow(0)
    server.receive_data(unmasked[1:])
    assert server.parser_exc is not None
    assert server.behind


def test_controls_and_fragments_are_frames() -> None:
    fragments = Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True)
    pings = Frame(Opcode.PING, b"").serialize(mask=True) * 3
    server = opened()
    assert parsed(server, fragments + pings, allowed=2) == 2
    assert server.behind


def test_what_waits_is_forgotten_when_the_connection_is_failed() -> None:
    server = opened()
    parsed(server, TINY * 100, allowed=1)
    server.allow(1)
    server.fail(1008, "too much")
    assert not server.reader.buffer


def test_a_rate_may_be_sent_for_ever() -> None:
    limit = FrameLimit(10)
    assert all(limit.take(10, float(now_s)) for now_s in range(1_000))


def test_a_burst_may_come_at_once_and_again_when_time_has_emptied_it() -> None:
    limit, burst = FrameLimit(10), int(10 * BURST_S)
    assert limit.take(burst, 100.0)
    assert limit.take(burst, 100.0 + BURST_S)


@pytest.mark.parametrize("elapsed_s", [0.0, 0.09])
def test_a_frame_above_the_burst_is_too_much(elapsed_s: float) -> None:
    limit = FrameLimit(10)
    assert limit.take(int(10 * BURST_S), 100.0)
    assert not limit.take(1, 100.0 + elapsed_s)


def test_silence_saves_up_a_burst_and_no_more() -> None:
    limit = FrameLimit(10)
    assert limit.take(1, 0.0)
    assert not limit.take(int(10 * BURST_S) + 1, 1_000_000.0)


def test_no_limit_takes_everything() -> None:
    assert FrameLimit(0).take(1_000_000, 0.0)
