"""Parts of the line to a gateway that need none."""

from __future__ import annotations

import pytest

from arcray.agents.link import Backoff, websocket_url
from arcray.core.errors import InvalidArgumentError
from arcray.testing.clock import SequenceIds
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
    "url", ["", "h:8080", "http://h/claw", "ws://", "ws://h:x/", "ws://h:70000/", "ws://h/#a", "ws://["]
)
def test_what_is_no_gateway_is_refused_by_its_option(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="gateway: must be ws://HOST:PORT/claw"):
        websocket_url(url, "/claw")
