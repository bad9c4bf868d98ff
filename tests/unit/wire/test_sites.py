from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from arcray.core.errors import PermissionDeniedError
from arcray.wire.sites import OwnSites


def asked(host: str, origin: str = "", method: str = "POST", *, socket: bool = False) -> HTTPConnection:
    headers = [(name, value.encode("latin-1")) for name, value in ((b"host", host), (b"origin", origin)) if value]
    scope = {"type": "websocket"} if socket else {"type": "http", "method": method}
    return HTTPConnection({**scope, "headers": headers, "query_string": b""})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "localhost:8080", "LOCALHOST", "a.localhost", "10.0.0.7:1", ""],
)
def test_what_cannot_be_pointed_elsewhere_may_be_asked_for(host: str) -> None:
    sites = OwnSites()
    for _ in range(2):
        sites.check(asked(host))
        sites.check(asked(host, method="GET"))
        sites.check(asked(host, socket=True))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "[::1", "a@localhost.x", "x y"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_its_owner_points_here_is_refused(host: str, method: str) -> None:
    """So a page of that name can neither read nor change anything, though it is of the same site for its browser."""
    with pytest.raises(PermissionDeniedError) as refused:
        OwnSites().check(asked(host, f"http://{host}", method))
    assert refused.value.field == "Host"


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:9999", "127.0.0.1:8080", "http://[", "http://[x]", "http://a]b"],
)
def test_pages_of_other_sites_change_nothing_and_open_no_socket(origin: str) -> None:
    for connection in (asked("127.0.0.1:8080", origin), asked("127.0.0.1:8080", origin, socket=True)):
        with pytest.raises(PermissionDeniedError) as refused:
            OwnSites().check(connection)
        assert refused.value.field == "Origin"
    OwnSites().check(asked("127.0.0.1:8080", origin, "GET"))  # its browser keeps the answer from it


def test_own_pages_may_do_everything() -> None:
    OwnSites().check(asked("127.0.0.1:8080", "http://127.0.0.1:8080"))
    OwnSites().check(asked("localhost:8080", "http://localhost:8080", socket=True))


def test_sites_that_the_settings_name_are_asked_for_and_ask() -> None:
    sites = OwnSites(["Pool.lan:8080"])
    sites.check(asked("pool.lan:8080", "http://pool.lan:8080"))
    sites.check(asked("127.0.0.1:8080", "http://pool.lan:8080", socket=True))
    with pytest.raises(PermissionDeniedError):
        sites.check(asked("pool.lan:9090"))


def test_a_pool_that_serves_other_machines_is_asked_for_by_any_name() -> None:
    sites = OwnSites(any_host=True)
    sites.check(asked("gpu-box:8080", "http://gpu-box:8080"))
    with pytest.raises(PermissionDeniedError):
        sites.check(asked("gpu-box:8080", "http://evil.example"))


def test_what_strangers_ask_for_is_not_remembered_without_bound() -> None:
    sites = OwnSites(any_host=True)
    for number in range(1_000):
        sites.check(asked(f"host-{number}"))
    assert len(sites._known) <= 256
