"""Writing bincode of any shape: byte for byte what bincode 1.x makes of the document's types with its default settings.

Little-endian, integers of fixed width; an enum is the number of its variant in 32 bits, a list, string or map has its
length before it in 64, an option one byte that says whether something follows, a UUID is 16 bytes with their length,
a timestamp its text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias, assert_never

from arcray.claw_proto.shapes import (
    Choice,
    Identity,
    Many,
    Maybe,
    Moment,
    Pair,
    Real,
    Record,
    Shape,
    Table,
    Text,
    Truth,
    Unfit,
    Whole,
    Word,
)
from arcray.claw_proto.timestamp import Timestamp

__all__ = ["writer"]

_Write: TypeAlias = Callable[[bytearray, Any], None]

_LENGTH: Final = struct.Struct("<Q")
_VARIANT: Final = struct.Struct("<I")
_REAL: Final = struct.Struct("<f")
_UUID_BYTES: Final = 16


@cache
def writer(shape: Shape) -> _Write:  # noqa: C901, PLR0911, PLR0912  one arm per shape
    """Returns what appends a value of this shape. It raises ``Unfit`` for one that is none."""
    match shape:
        case Whole():
            return _write_whole(shape)
        case Real():
            return _write_real
        case Truth():
            return _write_truth
        case Text():
            return _write_text
        case Identity():
            return _write_identity(shape)
        case Moment():
            return _write_moment
        case Maybe():
            return _write_maybe(writer(shape.of))
        case Many():
            return _write_many(writer(shape.of))
        case Pair():
            return _write_pair
        case Table():
            return _write_table
        case Word():
            return _write_word(shape)
        case Record():
            return _write_record(shape)
        case Choice():
            return _write_choice(shape)
        case _:
            assert_never(shape)


def _write_whole(shape: Whole) -> _Write:
    pack, low, high = struct.Struct(f"<{shape.code}").pack, shape.low, shape.high

    def write(out: bytearray, value: Any) -> None:
        if type(value) is not int:
            raise Unfit("must be an integer")
        if not low <= value <= high:
            raise Unfit(f"must be between {low} and {high}")
        out += pack(value)

    return write


def _write_real(out: bytearray, value: Any) -> None:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise Unfit("must be a number")
    try:
        out += _REAL.pack(value)
    except OverflowError as error:
        raise Unfit("must be a number of 32 bits") from error


def _write_truth(out: bytearray, value: Any) -> None:
    if type(value) is not bool:
        raise Unfit("must be true or false")
    out.append(value)


def _write_text(out: bytearray, value: Any) -> None:
    if type(value) is not str:
        raise Unfit("must be a string")
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise Unfit("holds half of a surrogate pair") from error
    out += _LENGTH.pack(len(data))
    out += data


def _write_identity(shape: Identity) -> _Write:
    kind, head = shape.kind, _LENGTH.pack(_UUID_BYTES)

    def write(out: bytearray, value: Any) -> None:
        if type(value) is not kind:
            raise Unfit(f"must be a {kind.__name__}")
        out += head
        out += bytes.fromhex(value.replace("-", ""))

    return write


def _write_moment(out: bytearray, value: Any) -> None:
    if type(value) is not Timestamp:
        raise Unfit("must be a Timestamp")
    _write_text(out, str(value))


def _write_maybe(write_one: _Write) -> _Write:
    def write(out: bytearray, value: Any) -> None:
        out.append(value is not None)
        if value is not None:
            write_one(out, value)

    return write


def _write_many(write_one: _Write) -> _Write:
    def write(out: bytearray, value: Any) -> None:
        if type(value) is not tuple:
            raise Unfit("must be a tuple")
        out += _LENGTH.pack(len(value))
        for index, each in enumerate(value):
            try:
                write_one(out, each)
            except Unfit as unfit:
                unfit.path.append(str(index))
                raise

    return write


def _write_pair(out: bytearray, value: Any) -> None:
    if type(value) is not tuple or len(value) != 2:
        raise Unfit("must be two strings")
    for each in value:
        _write_text(out, each)


_write_pairs: Final = _write_many(_write_pair)


def _write_table(out: bytearray, value: Any) -> None:
    _write_pairs(out, value)
    if len(dict(value)) != len(value):
        raise Unfit("has a name twice")


def _write_word(shape: Word) -> _Write:
    kind = shape.kind
    packed = {word: _VARIANT.pack(number) for number, word in enumerate(kind)}

    def write(out: bytearray, value: Any) -> None:
        if type(value) is not kind:
            raise Unfit(f"must be a {kind.__name__}")
        out += packed[value]

    return write


def _write_record(shape: Record) -> _Write:
    kind = shape.kind
    steps = tuple((member.name, writer(member.shape)) for member in shape.members)

    def write(out: bytearray, value: Any) -> None:
        if type(value) is not kind:
            raise Unfit(f"must be a {kind.__name__}")
        for name, step in steps:
            try:
                step(out, getattr(value, name))
            except Unfit as unfit:
                unfit.path.append(name)
                raise

    return write


def _write_choice(shape: Choice) -> _Write:
    steps = {
        variant.kind: (_VARIANT.pack(number), _write_record(variant)) for number, variant in enumerate(shape.variants)
    }

    def write(out: bytearray, value: Any) -> None:
        if type(value) not in steps:
            raise Unfit(f"must be one of {', '.join(variant.name for variant in shape.variants)}")
        head, step = steps[type(value)]
        out += head
        step(out, value)

    return write
