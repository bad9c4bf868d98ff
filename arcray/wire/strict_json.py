"""JSON that is really JSON: UTF-8, no NaN or Infinity, bounded depth; and objects whose members keep their own text.

``members`` exists for opaque values: a request's ``input`` goes to a model byte for byte, without being decoded for
its sake and encoded again (measured: as much time as parsing the whole request), and without its numbers changing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder, JSONEncoder
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

from arcray.core.errors import InvalidArgumentError

__all__ = ["MAX_JSON_DEPTH", "Members", "decoder", "dumps", "members", "parse", "quote"]

MAX_JSON_DEPTH: Final = 64
"""Nesting of arrays and objects; the standard parser recurses once per level."""


@dataclass(frozen=True, slots=True)
class Members:
    """A decoded object whose members can still be had as they were written.

    Args:
        values: decoded members by name; of a name that comes twice, the last.
        text: the document.
        spans: where in ``text`` each value stands.
    """

    values: dict[str, Any]
    text: str
    spans: dict[str, tuple[int, int]]

    def raw(self, name: str) -> bytes | None:
        """Returns the UTF-8 JSON of a member as it was written, None when it is absent."""
        span = self.spans.get(name)
        return None if span is None else self.text[span[0] : span[1]].encode()


def dumps(value: Any) -> bytes:
    """Returns compact UTF-8 JSON."""
    return _ENCODER.encode(value).encode()


def decoder(of_object: Callable[[list[tuple[str, Any]]], Any]) -> JSONDecoder:
    """Returns what ``parse`` reads with where an object is to be more than a dictionary of its last members.

    Args:
        of_object: makes a value of the members of each object, in their order.
    """
    return JSONDecoder(parse_constant=_no_constant, object_pairs_hook=of_object)


def parse(body: bytes | str, *, field: str = "body", by: JSONDecoder | None = None) -> Any:
    """Returns the decoded document.

    Args:
        by: made by ``decoder``; None reads objects as dictionaries.

    Raises:
        InvalidArgumentError: it is not JSON, or nested too deeply; names ``field``.
    """
    text = _text(body, field)
    try:
        value, end = (by or _DECODER).raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError) as error:
        raise _malformed(error, field) from error
    _expect_end(text, end, field)
    return value


def members(body: bytes | str, *, field: str = "body") -> Members:
    """Returns the members of a document that is an object.

    Raises:
        InvalidArgumentError: it is not JSON, not an object, or nested too deeply; names ``field``.
    """
    text = _text(body, field)
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    start = _OPEN.match(text)
    if start is None:
        parse(text, field=field)  # tells what is no JSON at all from what is another type
        raise InvalidArgumentError("must be an object", field=field)
    at = start.end()
    closed = text.startswith("}", at)
    at += closed
    try:
        while not closed:
            name, at = _name(text, at)
            value, end = _DECODER.raw_decode(text, at)
            values[name], spans[name] = value, (at, end)
            mark = _SEPARATOR.match(text, end)
            if mark is None:
                _fail("Expecting ',' delimiter", text, _skip(text, end))
            at = mark.end()
            closed = mark.group(1) == "}"
    except (ValueError, RecursionError) as error:
        raise _malformed(error, field) from error
    _expect_end(text, at, field)
    return Members(values, text, spans)


def quote(text: str) -> str:
    """Returns a string as JSON; what ``dumps`` does for the members of a larger value, without building that."""
    return encode_basestring(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = JSONDecoder(parse_constant=_no_constant)
_ENCODER: Final = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_OPEN: Final = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_PLAIN_NAME: Final = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')  # nearly every name there is
_SEPARATOR: Final = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# A string is one token, ended or not, so that a hostile body costs one pass: an unended one would otherwise be tried
# again from each of its escaped quotes.
_BRACKETS: Final = re.compile(r'[\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def _text(body: bytes | str, field: str) -> str:
    if isinstance(body, bytes):
        try:
            body = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgumentError("is not UTF-8", field=field) from error
    # Counting is a tenth of the price of measuring, and settles it for nearly every request.
    if body.count("[") + body.count("{") > MAX_JSON_DEPTH and _is_deep(body):
        raise InvalidArgumentError(f"is nested more than {MAX_JSON_DEPTH} levels deep", field=field)
    return body


def _is_deep(text: str) -> bool:
    depth = 0
    for token in _BRACKETS.finditer(text):
        bracket = text[token.start()]
        if bracket in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif bracket in "]}":
            depth -= 1
    return False


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None, "the pattern matches nothing too"
    return space.end()


def _name(text: str, at: int) -> tuple[str, int]:
    """Returns a member's name, and where its value begins."""
    plain = _PLAIN_NAME.match(text, at)
    if plain is not None:
        return plain.group(1), plain.end()
    if not text.startswith('"', at):
        _fail("Expecting property name enclosed in double quotes", text, at)
    name, at = _DECODER.raw_decode(text, at)
    at = _skip(text, at)
    if not text.startswith(":", at):
        _fail("Expecting ':' delimiter", text, at)
    return name, _skip(text, at + 1)


def _fail(message: str, text: str, at: int) -> NoReturn:
    raise json.JSONDecodeError(message, text, at)


def _expect_end(text: str, at: int, field: str) -> None:
    at = at if at == len(text) else _skip(text, at)
    if at != len(text):
        raise InvalidArgumentError(f"is not JSON: something follows its end at character {at}", field=field)


def _malformed(error: Exception, field: str) -> InvalidArgumentError:
    match error:
        case JSONDecodeError():
            return InvalidArgumentError(f"is not JSON: {error.msg} at character {error.pos}", field=field)
        case RecursionError():
            return InvalidArgumentError("is nested too deeply", field=field)
        case _:
            return InvalidArgumentError(f"is not JSON: {error}", field=field)
