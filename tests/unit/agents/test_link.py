"""Parts of the line to a gateway that need none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from websockets.asyncio.server import serve

from arcray.agents.hivemind import host_and_port
from arcray.agents.link import Backoff, Frame, Link, Peer, websocket_url
from arcray.core.errors import InvalidArgumentError
from arcray.testing.clock import FakeClock, SequenceIds
from arcray.wire.system import RandomIds


def test_tries_are_further_and_further_apart_and_no_two_machines_agree() -> None:
    backoff = Backoff(SequenceIds())
    waits = [backoff.next_s() for _ in range(12)]
    assert waits[:6] == sorted(waits[:6])
    assert 0.25 <= waits[0] <= 0.5
    assert 15.0 <= waits[-1] <= 30.0
    backoff.reset()
    assert backoff.next_s() <= 0.5
    assert len({Backoff(RandomIds()).next_s() for _ in range(10)}) > 5


@pytest.mark.parametrize("url", ["ws://h:8080/claw", "wss://h/", "ws://[::1]:1/claw"])
def test_a_gateway_is_a_url_of_a_websocket(url: str) -> None:
    assert websocket_url(url, "/claw") == url


@pytest.mark.parametrize(
    "url", ["", "h:8080", "http://h/claw", "ws://", "ws://h:x/", "ws://h:70000/", "ws://user@h/", "ws://h/#a", "ws://["]
)
def test_what_is_no_gateway_is_refused_by_its_option(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="gateway: must be ws://HOST:PORT/claw"):
        websocket_url(url, "/claw")


def test_a_refusal_does_not_repeat_credentials() -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        websocket_url("http://user:s3cret@h/claw?token=s3cret", "/claw")
    assert "s3cret" not in str(refusal.value)
    with pytest.raises(InvalidArgumentError) as refusal:
        host_and_port("user:s3cret@h:1", "pool")
    assert "s3cret" not in str(refusal.value)


class Silent:
    """A session that has nothing to say."""

    registered = congested = left = False

    def opened(self) -> Frame:
        return ""

    def closed(self) -> None:
        pass

    def received(self, frame: Frame) -> Sequence[None]:  # noqa: ARG002 - of the port
        return ()

    def take(self) -> Sequence[Frame]:
        return ()

    def due_s(self) -> float | None:
        return None


async def test_what_is_logged_of_a_gateway_has_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="arcray")
    lost = asyncio.Event()

    async def act(_: Sequence[None]) -> None:
        pass

    async def note() -> None:
        lost.set()

    def line(port: int) -> Link[None]:
        peer = Peer(url=f"ws://user:s3cret@127.0.0.1:{port}/claw?token=s3cret", max_message_bytes=1 << 20)
        assert "s3cret" not in repr(peer)
        return Link(peer, Silent(), act=act, clock=FakeClock(), ids=SequenceIds(), lost=note)

    async with serve(lambda socket: socket.close(1000), "127.0.0.1", 0) as server:
        (listening,) = server.sockets
        port = listening.getsockname()[1]
        await line(port).run()  # until it is sent home
    trying = asyncio.create_task(line(port).run())
    lost.clear()
    await asyncio.wait_for(lost.wait(), 10)
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    own = [record for record in caplog.records if record.name.startswith("arcray")]
    assert [record.message for record in own] == ["the gateway has said good-bye", "gateway not reached"]
    assert {vars(record)["gateway"] for record in own} == {f"ws://***@127.0.0.1:{port}/claw?***"}
    assert "s3cret" not in " ".join(str(vars(record)) for record in own)
