"""Open mode takes everyone; keys mode takes a right key from either place, and logs never show it."""

from __future__ import annotations

import io
import logging

import pytest
from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.errors import UnauthenticatedError
from arcray.wire.identity import LOCAL, Authenticator, RedactApiKeys, Scope, redact

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


def test_redaction_keeps_the_rest_of_the_target() -> None:
    assert redact("/telemetry?apiKey=s3cret&x=1") == "/telemetry?apiKey=***&x=1"
    assert redact('GET "/t?x=1&apikey=abc"') == 'GET "/t?x=1&apikey=***"'
    assert redact("/monkeys?x=1") == "/monkeys?x=1"


def test_log_filter_rewrites_formatted_arguments() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactApiKeys())
    logger = logging.Logger("access")  # noqa: LOG001  # a private one leaves the process's loggers alone
    logger.addHandler(handler)
    logger.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:5", "/telemetry?apiKey=s3cret")
    logger.info("%d plain", 7)
    assert stream.getvalue() == '127.0.0.1:5 - "WebSocket /telemetry?apiKey=***" [accepted]\n7 plain\n'
