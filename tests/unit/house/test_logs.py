from __future__ import annotations

import io
import json
import logging

import pytest

from arcray.logs import JsonFormatter, RedactApiKeys, TextFormatter, configure, redact, without_credentials


def a_record(message: str = "node lost", **fields: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "arcray.core", "levelname": "INFO", "msg": message, "created": 0.25})
    record.__dict__.update(fields)
    return record


def test_a_text_line_has_the_phrase_and_the_fields() -> None:
    line = TextFormatter().format(a_record(node_id="n1", reason="no answer in 5 s", empty=""))
    assert line == '00:00:00.250 INFO core: node lost  node_id=n1 reason="no answer in 5 s" empty=""'


def test_a_field_cannot_forge_a_line() -> None:
    line = TextFormatter().format(a_record(reason="x\n00:00:00 ERROR core: forged"))
    assert "\n" not in line


def test_a_json_line_is_one_object_with_the_fields() -> None:
    line = JsonFormatter().format(a_record(node_id="n1", attempt=2))
    assert json.loads(line) == {
        "at": "1970-01-01T00:00:00.250+00:00",
        "level": "INFO",
        "logger": "arcray.core",
        "event": "node lost",
        "node_id": "n1",
        "attempt": 2,
    }


def test_what_a_library_puts_into_every_record_is_no_field() -> None:
    """Ray makes all records of a process from the moment it is imported, before us or after."""
    record = a_record(_ray_timestamp_ns=250_000_000, node_id="n1")
    assert TextFormatter().format(record) == "00:00:00.250 INFO core: node lost  node_id=n1"
    assert set(json.loads(JsonFormatter().format(record))) == {"at", "level", "logger", "event", "node_id"}


def test_a_traceback_follows_its_line() -> None:
    try:
        int("broken")
    except ValueError as error:
        record = a_record()
        record.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: invalid literal" in TextFormatter().format(record)
    assert "ValueError: invalid literal" in json.loads(JsonFormatter().format(record))["traceback"]


def test_configuring_twice_prints_each_record_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("arcray")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        configure("INFO", "text")
        configure("INFO", "text")
        logging.getLogger("arcray.x").info("once")
        logging.getLogger("arcray.x").debug("never")
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
    assert capsys.readouterr().err.count("once") == 1


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


def test_configured_process_prints_no_api_key_of_a_websocket() -> None:
    logger = logging.getLogger("arcray")
    before = (logger.handlers[:], logger.level, logger.propagate)
    configure("INFO", "text")
    configure("INFO", "text")
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)
    teller = logging.getLogger("uvicorn.error")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    teller.addHandler(handler)
    level = teller.level
    teller.setLevel(logging.INFO)
    try:
        teller.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:5", "/telemetry?apiKey=s3cret")
    finally:
        teller.setLevel(level)
        teller.removeHandler(handler)
    assert stream.getvalue() == '127.0.0.1:5 - "WebSocket /telemetry?apiKey=***" [accepted]\n'
    assert sum(isinstance(known, RedactApiKeys) for known in teller.filters) == 1


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ws://h:8080/claw", "ws://h:8080/claw"),
        ("pool.example:50051", "pool.example:50051"),
        ("ws://user:s3cret@h:8080/claw", "ws://***@h:8080/claw"),
        ("wss://h/claw?token=s3cret", "wss://h/claw?***"),
        ("ws://user:s3cret@[::1]:1/claw?a=1&token=s3cret#s3cret", "ws://***@[::1]:1/claw?***"),
        ("user:s3cret@h:1", "***@h:1"),
        ("ws://user:s3/cr?et@s3cret#@h:x/", "ws://***@h:x/"),
        ("ws://user:s3cret\n@h", "ws://***@h"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_lets_somebody_in(address: str, shown: str) -> None:
    assert without_credentials(address) == shown
