"""Structured logging: a constant phrase and fields, one line each, for people or for machines.

What lives here: the shape of a line. What does not: what is logged, and where a process's stderr goes (Ray collects
that of actors). Fields are whatever ``extra=`` adds without a leading underscore. uvicorn prints the targets of
WebSockets, which may hold an API key (one protocol has no other place for it): ``configure`` has every line of
uvicorn's pass ``RedactApiKeys``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

__all__ = ["JsonFormatter", "RedactApiKeys", "TextFormatter", "configure", "redact", "without_credentials"]

_API_KEY: Final = re.compile(r"(?i)(\bapiKey=)[^&\s\"']*")
_USER: Final = re.compile(r"([^/?#@]*//)?.*@", re.DOTALL)
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)
_TELL_TARGETS: Final = ("uvicorn.error", "uvicorn.access")

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Sends the records of arcray's loggers to stderr in this style. Calling it again replaces what it did before.

    Args:
        level: the least that is shown, for example "INFO".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logger = logging.getLogger("arcray")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False  # Ray and Serve put handlers of their own on the root
    for name in _TELL_TARGETS:  # on the logger: whatever handler prints the line gets it redacted
        teller = logging.getLogger(name)
        if not any(isinstance(known, RedactApiKeys) for known in teller.filters):
            teller.addFilter(RedactApiKeys())


def redact(text: str) -> str:
    """Returns text with the value of every ``apiKey`` query parameter replaced by ``***``."""
    return _API_KEY.sub(r"\1***", text)


def without_credentials(address: str) -> str:
    """Returns an address as people typed it, or a URL, without what may let somebody in: its user, and its query.

    Whatever it is: a password may have signs in it that make the whole no URL any more.
    """
    return _QUERY.sub("?***", _USER.sub(r"\1***@", address, count=1), count=1)


class RedactApiKeys(logging.Filter):
    """Takes API keys out of lines that print request targets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record in place; always lets it pass."""
        if "apikey" in record.getMessage().lower():
            record.msg = redact(record.getMessage())
            record.args = None
        return True


class TextFormatter(logging.Formatter):
    """``12:00:01.250 INFO node: attached  node_id=… epoch=3``, then a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        at = _time(record).strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{at} {record.levelname} {record.name.removeprefix('arcray.')}: {record.getMessage()}"
        return "\n".join(filter(None, (f"{line} {fields}".rstrip(), _traceback(self, record))))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``at``, ``level``, ``logger``, ``event``, the fields, ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        entry: dict[str, Any] = {
            "at": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if traceback := _traceback(self, record):
            entry["traceback"] = traceback
        return json.dumps(entry, default=str, ensure_ascii=False)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    # Ray's factory of records adds one that begins so (_ray_timestamp_ns), to those of the whole process.
    return {
        name: value for name, value in record.__dict__.items() if name not in _STANDARD and not name.startswith("_")
    }


def _plain(value: object) -> str:
    """Returns a value as one word, quoted where it has spaces or could be taken for more than one."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""
