"""Open mode takes everyone; keys mode takes a right key from either place."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.errors import PermissionDeniedError, UnauthenticatedError
from arcray.wire.identity import LOCAL, Authenticator, Scope

KEYS = AuthSettings(mode="keys", keys={"ana": "k-ana", "bo": "k-bo", "empty": ""})


def connection(authorization: str = "", query: str = "") -> HTTPConnection:
    headers = [(b"authorization", authorization.encode())] if authorization else []
    return HTTPConnection({"type": "http", "headers": headers, "query_string": query.encode()})


def test_open_mode_takes_everyone_as_local() -> None:
    assert Authenticator(AuthSettings()).identify(connection()) is LOCAL
    assert LOCAL.sees is None


@pytest.mark.parametrize(
    ("authorization", "query"),
    [("Bearer k-bo", ""), ("bearer  k-bo ", ""), ("", "apiKey=k-bo"), ("Basic eDp5", "apiKey=k-bo")],
)
def test_right_key_is_taken_from_either_place(authorization: str, query: str) -> None:
    found = Authenticator(KEYS).identify(connection(authorization, query))
    assert (found.account, found.scope, found.sees) == ("bo", Scope.SUBMIT, "bo")


@pytest.mark.parametrize(
    ("authorization", "query"),
    [
        ("", ""),
        ("Bearer", ""),
        ("Bearer k-b", ""),
        ("", "apikey=k-bo"),
        ("", "apiKey="),
        ("Bearer \xff", "apiKey=k-bo"),
    ],
)
def test_missing_or_wrong_key_is_refused(authorization: str, query: str) -> None:
    with pytest.raises(UnauthenticatedError):
        Authenticator(KEYS).identify(connection(authorization, query))


def asked_from(origin: str, method: str = "POST") -> HTTPConnection:
    headers = [(b"host", b"127.0.0.1:8080"), (b"origin", origin.encode())]
    return HTTPConnection({"type": "http", "method": method, "headers": headers, "query_string": b""})


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "127.0.0.1:8080"])
def test_open_mode_takes_no_changes_from_pages_of_other_sites(origin: str) -> None:
    for method in ("POST", "DELETE"):
        with pytest.raises(PermissionDeniedError) as caught:
            Authenticator(AuthSettings()).identify(asked_from(origin, method))
        assert caught.value.field == "Origin"


def test_open_mode_takes_its_own_pages_and_lets_others_read() -> None:
    assert Authenticator(AuthSettings()).identify(asked_from("http://127.0.0.1:8080")) is LOCAL
    assert Authenticator(AuthSettings()).identify(asked_from("http://evil.example", "GET")) is LOCAL
