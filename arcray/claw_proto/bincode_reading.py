"""Reading bincode of any shape.

What follows the value is not looked at. Nothing is set aside for a length that the bytes which are there cannot keep,
so what is read costs what was sent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias, assert_never

from arcray.claw_proto.errors import ProtoError
from arcray.claw_proto.ids import NodeId, WorkloadId
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

__all__ = ["reader", "variant_of"]

_Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]

_LENGTH: Final = struct.Struct("<Q")
_UUID_BYTES: Final = 16
_CUT_OFF: Final = "is cut off"


def variant_of(data: bytes) -> int:
    """Returns the number of the variant that an enum begins with.

    Raises:
        Unfit: there are no four bytes.
    """
    number: int = _read_variant(data, 0)[0]
    return number


@cache
def reader(shape: Shape) -> _Read:  # noqa: C901, PLR0911, PLR0912  one arm per shape
    """Returns what reads a value of this shape from a place on, and says where it ends. It raises ``Unfit``."""
    match shape:
        case Whole():
            return _read_fixed(struct.Struct(f"<{shape.code}"))
        case Real():
            return _read_real
        case Truth():
            return _read_truth
        case Text():
            return _read_text
        case Identity():
            return _read_identity(shape.kind)
        case Moment():
            return _read_moment
        case Maybe():
            return _read_maybe(reader(shape.of))
        case Many():
            return _read_many(reader(shape.of), _least(shape.of))
        case Pair():
            return _read_pair
        case Table():
            return _read_table
        case Word():
            return _read_word(shape)
        case Record():
            return _read_numbers(shape) if _has_numbers_alone(shape) else _read_record(shape)
        case Choice():
            return _read_choice(shape)
        case _:
            assert_never(shape)


def _least(shape: Shape) -> int:  # noqa: PLR0911  one arm per shape
    """Returns how many bytes the shortest value of a shape has; at least one."""
    match shape:
        case Whole():
            return struct.calcsize(f"<{shape.code}")
        case Truth() | Maybe():
            return 1
        case Real() | Word() | Choice():
            return 4
        case Text() | Many() | Table() | Moment():
            return _LENGTH.size
        case Identity():
            return _LENGTH.size + _UUID_BYTES
        case Pair():
            return 2 * _LENGTH.size
        case Record():
            return max(1, sum(_least(member.shape) for member in shape.members))
        case _:
            assert_never(shape)


def _read_fixed(packed: struct.Struct) -> _Read:
    unpack, size = packed.unpack_from, packed.size

    def read(data: bytes, at: int) -> tuple[Any, int]:
        try:
            return unpack(data, at)[0], at + size
        except struct.error as error:
            raise Unfit(_CUT_OFF) from error

    return read


_read_length: Final = _read_fixed(_LENGTH)
_read_variant: Final = _read_fixed(struct.Struct("<I"))
_read_single: Final = _read_fixed(struct.Struct("<f"))


def _read_real(data: bytes, at: int) -> tuple[float, int]:
    value, at = _read_single(data, at)
    if not math.isfinite(value):
        raise Unfit("must be a finite number")  # no JSON has another, and none of it is a reading
    return value, at


def _read_truth(data: bytes, at: int) -> tuple[bool, int]:
    if at >= len(data):
        raise Unfit(_CUT_OFF)
    if data[at] > 1:
        raise Unfit(f"is neither 0 nor 1 but {data[at]}")
    return data[at] == 1, at + 1


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _read_length(data, at)
    end = at + length
    if end > len(data):
        raise Unfit(_CUT_OFF)
    try:
        return data[at:end].decode(), end
    except UnicodeDecodeError as error:
        raise Unfit("is not UTF-8") from error


def _read_identity(kind: type[NodeId | WorkloadId]) -> _Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        length, at = _read_length(data, at)
        if length != _UUID_BYTES:
            raise Unfit("is not a UUID")
        end = at + _UUID_BYTES
        if end > len(data):
            raise Unfit(_CUT_OFF)
        digits = data[at:end].hex()
        return kind(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"), end

    return read


def _read_moment(data: bytes, at: int) -> tuple[Timestamp, int]:
    text, at = _read_text(data, at)
    try:
        return Timestamp.parse(text), at
    except ProtoError as error:
        raise Unfit(error.message) from error


def _read_maybe(read_one: _Read) -> _Read:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        there, at = _read_truth(data, at)
        return read_one(data, at) if there else (None, at)

    return read


def _read_many(read_one: _Read, least: int) -> _Read:
    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        length, at = _read_length(data, at)
        if length > (len(data) - at) // least:
            raise Unfit(_CUT_OFF)
        found: list[Any] = []
        try:
            for _ in range(length):
                each, at = read_one(data, at)
                found.append(each)
        except Unfit as unfit:
            unfit.path.append(str(len(found)))
            raise
        return tuple(found), at

    return read


def _read_pair(data: bytes, at: int) -> tuple[tuple[str, str], int]:
    first, at = _read_text(data, at)
    second, at = _read_text(data, at)
    return (first, second), at


_read_pairs: Final = _read_many(_read_pair, 2 * _LENGTH.size)


def _read_table(data: bytes, at: int) -> tuple[tuple[tuple[str, str], ...], int]:
    pairs, at = _read_pairs(data, at)
    return tuple(dict(pairs).items()), at  # of a name that comes twice, the last


def _read_word(shape: Word) -> _Read:
    words = tuple(shape.kind)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        number, at = _read_variant(data, at)
        if number >= len(words):
            raise Unfit(f"must be a variant below {len(words)}, got {number}")
        return words[number], at

    return read


def _has_numbers_alone(shape: Record) -> bool:
    return bool(shape.members) and all(isinstance(member.shape, Whole) for member in shape.members)


def _read_numbers(shape: Record) -> _Read:
    """A reading of many GPUs is as many of these: taken in one go, each costs a fifth."""
    kind, packed, names = shape.kind, _packed(shape), tuple(member.name for member in shape.members)
    unpack, size = packed.unpack_from, packed.size

    def read(data: bytes, at: int) -> tuple[Any, int]:
        try:
            return kind(**dict(zip(names, unpack(data, at), strict=True))), at + size
        except struct.error as error:
            raise Unfit(_CUT_OFF) from error

    return read


def _packed(shape: Record) -> struct.Struct:
    return struct.Struct(
        "<" + "".join(member.shape.code for member in shape.members if isinstance(member.shape, Whole))
    )


def _read_record(shape: Record) -> _Read:
    kind = shape.kind
    steps = tuple((member.name, reader(member.shape)) for member in shape.members)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        found = {}
        for name, step in steps:
            try:
                found[name], at = step(data, at)
            except Unfit as unfit:
                unfit.path.append(name)
                raise
        return kind(**found), at

    return read


def _read_choice(shape: Choice) -> _Read:
    steps = tuple(map(reader, shape.variants))

    def read(data: bytes, at: int) -> tuple[Any, int]:
        number, at = _read_variant(data, at)
        if number >= len(steps):
            raise Unfit(f"must be a variant below {len(steps)}, got {number}")
        return steps[number](data, at)

    return read
