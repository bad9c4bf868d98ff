"""Large JSON, read in turns: whoever shares the event loop waits for a turn of a few milliseconds, not for the whole.

The standard decoder keeps the interpreter to itself from the first byte to the last, in a thread as on the loop: 33 ms
for a MiB of numbers, and twenty times the document in memory for one of brackets. What is opaque is therefore walked
over by the grammar and never built. A list or object that stands directly in the document and is longer than
``_DECODED`` characters is in ``values`` as an empty one; its text is had by ``Members.raw`` as ever.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Generator
from typing import Any, Final

from arcray.core.errors import InvalidArgumentError
from arcray.wire.strict_json import MAX_JSON_DEPTH, Members

__all__ = ["LARGE_BYTES", "Turns"]

LARGE_BYTES: Final = 64 * 2**10
"""Documents up to this size are decoded at once, in 2 ms of numbers and 5 of brackets; ``strict_json`` does that."""

_DECODED: Final = 1024
_MOST_MEMBERS: Final = 1024
_TURN_STEPS: Final = 1024  # of brackets about 1 ms
_TURN_CHARACTERS: Final = 64 * 2**10  # of numbers about 1 ms


class Turns:
    """Reads large documents one after the other, so that all of them together take one turn of the loop in two."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def members(self, body: bytes, *, field: str = "body") -> Members:
        """Returns the members of a document that is an object, as ``strict_json.members`` does.

        Raises:
            InvalidArgumentError: it is not JSON, not an object, nested too deeply, or has too many members; names
                ``field``.
        """
        async with self._one:
            reading = _read(_text(body, field), field)
            steps, began = 0, 0
            while True:
                try:
                    at = next(reading)
                except StopIteration as end:
                    found: Members = end.value
                    return found
                steps += 1
                if steps == _TURN_STEPS or at - began >= _TURN_CHARACTERS:
                    steps, began = 0, at
                    await asyncio.sleep(0)


_S: Final = r"[ \t\n\r]*+"
_STRING: Final = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
# The standard decoder makes no integer of more digits than this either.
_NUMBER: Final = r"-?(?:0|[1-9][0-9]{0,4299}+)(?![0-9])(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_SCALAR: Final = rf"(?:{_STRING}|{_NUMBER}|true|false|null)"
# One step takes this too, so that rows of numbers do not cost a step for each of their brackets.
_SHORT: Final = rf"(?:{_SCALAR}|\[{_S}(?:{_SCALAR}{_S}(?:,{_S}{_SCALAR}{_S}){{0,15}}+)?+\]|\{{{_S}\}})"


def _steps(item: str) -> dict[str, re.Pattern[str]]:
    """Returns what one step takes inside a list and an object, by what closes them: up to 64 items and one bracket.

    Every repetition is possessive, so that a step costs one pass whatever stands there.
    """
    member = rf"{_STRING}{_S}:{_S}"
    return {
        "]": re.compile(rf"(?:{item}{_S},{_S}){{0,64}}+(?:{item}{_S}([\]])|([\[{{]){_S})?+"),
        "}": re.compile(rf"(?:{member}{item}{_S},{_S}){{0,64}}+(?:{member}(?:{item}{_S}(\}})|([\[{{]){_S}))?+"),
    }


_STEPS: Final = _steps(_SHORT)
_DEEPEST_STEPS: Final = _steps(_SCALAR)
_CLOSERS: Final = {"[": "]", "{": "}"}
_AFTER: Final = re.compile(rf"{_S}(?:,{_S}|([\]}}]))")
_OPEN: Final = re.compile(rf"{_S}(\{{){_S}")
_NAME: Final = re.compile(rf"({_STRING}){_S}:{_S}")
_ONE: Final = re.compile(_SCALAR)
_BRACKET: Final = re.compile(rf"([\[{{]){_S}")
_SPACE: Final = re.compile(_S)


def _text(body: bytes, field: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError("is not UTF-8", field=field) from error


def _read(text: str, field: str) -> Generator[int, None, Members]:
    """Reads the document; yields where it stands after every step."""
    start = _OPEN.match(text)
    if start is None:
        raise InvalidArgumentError("must be an object", field=field)
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    at = start.end()
    closed = text.startswith("}", at)
    at += closed
    count = 0
    while not closed:
        named = _NAME.match(text, at)
        if named is None:
            raise _malformed(at, field)
        count += 1
        if count > _MOST_MEMBERS:
            raise InvalidArgumentError(f"has more than {_MOST_MEMBERS} members", field=field)
        begin = named.end()
        bracket = _BRACKET.match(text, begin)
        if bracket is None:
            value, end = _scalar(text, begin, field)
        else:
            end = yield from _walk(text, bracket, field)
            value = json.loads(text[begin:end]) if end - begin <= _DECODED else _EMPTY[bracket.group(1)]()
        name = json.loads(named.group(1))
        values[name], spans[name] = value, (begin, end)
        mark = _AFTER.match(text, end)
        if mark is None or mark.group(1) == "]":
            raise _malformed(end, field)
        at, closed = mark.end(), mark.group(1) == "}"
        yield at
    space = _SPACE.match(text, at)
    if space is None or space.end() != len(text):
        raise InvalidArgumentError(f"is not JSON: something follows its end at character {at}", field=field)
    return Members(values, text, spans)


_STRINGS: Final = json.JSONDecoder()
_EMPTY: Final[dict[str, type[list[Any] | dict[str, Any]]]] = {"[": list, "{": dict}


def _scalar(text: str, at: int, field: str) -> tuple[Any, int]:
    if text.startswith('"', at):
        try:
            return _STRINGS.raw_decode(text, at)  # twice as fast as the pattern, and this may be all of the document
        except ValueError as error:
            raise _malformed(at, field) from error
    found = _ONE.match(text, at)
    if found is None:
        raise _malformed(at, field)
    return json.loads(found.group()), found.end()


def _walk(text: str, bracket: re.Match[str], field: str) -> Generator[int, None, int]:
    """Walks over a list or object of the document; yields where it stands after every step, returns where it ends."""
    open_: list[str] = []  # what closes each of the lists and objects that it stands in, outermost first
    opened, at = bracket.group(1), bracket.end()
    while True:
        open_.append(_CLOSERS[opened])
        if len(open_) >= MAX_JSON_DEPTH:  # the document itself is one level
            raise InvalidArgumentError(f"is nested more than {MAX_JSON_DEPTH} levels deep", field=field)
        closed = text.startswith(open_[-1], at)
        at += closed
        opened = ""
        while not opened:
            if closed:
                open_.pop()
                if not open_:
                    return at
                at, closed = _after(text, at, open_[-1], field)
            else:
                steps = _STEPS if len(open_) < MAX_JSON_DEPTH - 1 else _DEEPEST_STEPS
                taken = steps[open_[-1]].match(text, at)
                if taken is None or taken.end() == at:
                    raise _malformed(at, field)
                at, closed, opened = taken.end(), taken.group(1) is not None, taken.group(2) or ""
            yield at


def _after(text: str, at: int, closer: str, field: str) -> tuple[int, bool]:
    """Returns where it goes on after a value inside something, and whether that ends there."""
    mark = _AFTER.match(text, at)
    if mark is None or mark.group(1) not in (None, closer):
        raise _malformed(at, field)
    return mark.end(), mark.group(1) is not None


def _malformed(at: int, field: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"is not JSON: cannot be read at character {at}", field=field)
