"""Where a gateway is reached from its own machine, whatever it binds."""

from __future__ import annotations

import pytest

from arcray.config import GatewaySettings


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:8080"),
        ("0.0.0.0", "127.0.0.1:8080"),
        ("", "127.0.0.1:8080"),
        ("::", "[::1]:8080"),
        ("::1", "[::1]:8080"),
        ("pool.example", "pool.example:8080"),
    ],
)
def test_an_address_is_one_that_a_url_can_hold(host: str, reached: str) -> None:
    assert GatewaySettings(host=host).authority == reached


def test_without_ports_of_its_own_it_is_reached_through_serve() -> None:
    assert GatewaySettings(http_ports=(), serve_port=9000).authority == "127.0.0.1:9000"
