"""Any value of any type of claw-proto, drawn from its declaration, so that a field which is added is drawn too."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from typing import Any, assert_never

from hypothesis import strategies as st

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
    Whole,
    Word,
    shape_of,
)
from arcray.claw_proto.timestamp import Timestamp

__all__ = ["values_of"]

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["", "\0", "é€😀", '"\\/\b\n', "null"])
_PLAIN_TEXT = st.text(string.ascii_letters, max_size=4)
_MOMENTS = st.builds(
    Timestamp,
    st.datetimes(timezones=st.just(UTC)) | st.just(datetime(1, 1, 1, tzinfo=UTC)),
    st.integers(0, 999) | st.just(0),
) | st.builds(
    Timestamp,
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(second=59, microsecond=999_999)),
    st.integers(1_000, 10**9 + 999),  # a leap second
)


def values_of(declared: Any) -> st.SearchStrategy[Any]:
    """Returns what draws values of a type."""
    return _drawn(shape_of(declared))


def _drawn(shape: Shape) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911, PLR0912  one arm per shape
    match shape:
        case Whole():
            return st.integers(shape.low, shape.high) | st.sampled_from([shape.low, shape.high])
        case Real():
            return st.floats(width=32, allow_nan=False, allow_infinity=False)
        case Truth():
            return st.booleans()
        case Text():
            return _TEXT
        case Identity():
            return st.uuids().map(str).map(shape.kind)
        case Moment():
            return _MOMENTS
        case Maybe():
            return st.none() | _drawn(shape.of)
        case Many():
            return st.lists(_drawn(shape.of), max_size=3).map(tuple)
        case Pair():
            return st.tuples(_TEXT, _TEXT)
        case Table():
            return st.dictionaries(_PLAIN_TEXT, _TEXT, max_size=3).map(lambda found: tuple(found.items()))
        case Word():
            return st.sampled_from(list(shape.kind))
        case Record():
            return st.builds(shape.kind, **{member.name: _drawn(member.shape) for member in shape.members})
        case Choice():
            return st.one_of([_drawn(variant) for variant in shape.variants])
        case _:
            assert_never(shape)
