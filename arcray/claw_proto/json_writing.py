"""Writing JSON of any shape, as serde writes it: every field in its order, and what is nothing as null.

What is no value of its type is refused, so that nothing goes out which could not come in.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, assert_never

from arcray.claw_proto.json_scalars import Step, expected, real, rust_name, text, truth, whole, within
from arcray.claw_proto.shapes import (
    Absence,
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
from arcray.claw_proto.tagging import Tagging, spelled
from arcray.claw_proto.timestamp import Timestamp

__all__ = ["writer"]


@cache
def writer(shape: Shape, tagging: Tagging) -> Step:  # noqa: C901, PLR0911, PLR0912  one arm per shape
    """Returns what makes JSON of a value of this shape. It raises ``Unfit`` for one that is none."""
    match shape:
        case Whole():
            return whole(shape)
        case Real():
            return real
        case Truth():
            return truth
        case Text():
            return text
        case Identity():
            return _write_identity(shape)
        case Moment():
            return _write_moment
        case Maybe():
            return _write_maybe(writer(shape.of, tagging))
        case Many():
            return _write_many(writer(shape.of, tagging))
        case Pair():
            return _write_pair
        case Table():
            return _write_table
        case Word():
            return _write_word(shape, tagging)
        case Record():
            return _write_record(shape, tagging)
        case Choice():
            return _write_choice(shape, tagging)
        case _:
            assert_never(shape)


def _write_identity(shape: Identity) -> Step:
    kind = shape.kind

    def write(value: Any) -> str:
        if type(value) is not kind:
            raise expected(value, f"a {kind.__name__}")
        return value

    return write


def _write_moment(value: Any) -> str:
    if type(value) is not Timestamp:
        raise expected(value, "a Timestamp")
    return str(value)


def _write_maybe(write_one: Step) -> Step:
    def write(value: Any) -> Any:
        return None if value is None else write_one(value)

    return write


def _write_many(write_one: Step) -> Step:
    def write(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise expected(value, "a tuple")
        found: list[Any] = []
        try:
            for each in value:
                found.append(write_one(each))  # noqa: PERF401  its length says where writing stopped
        except Unfit as unfit:
            unfit.path.append(str(len(found)))
            raise
        return found

    return write


def _write_pair(value: Any) -> list[str]:
    if type(value) is not tuple or len(value) != 2:
        raise expected(value, "two strings")
    return [within("0", text, value[0]), within("1", text, value[1])]


_write_pairs: Final = _write_many(_write_pair)


def _write_table(value: Any) -> dict[str, str]:
    pairs = _write_pairs(value)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unfit("has a name twice")
    return found


def _write_word(shape: Word, tagging: Tagging) -> Step:
    kind = shape.kind
    names = {each: rust_name(each.value) if tagging is Tagging.EXTERNAL else each.value for each in kind}

    def write(value: Any) -> str:
        if type(value) is not kind:
            raise expected(value, f"a {kind.__name__}")
        return names[value]

    return write


def _write_record(shape: Record, tagging: Tagging) -> Step:
    kind = shape.kind
    steps = tuple(
        (member.name, writer(member.shape, tagging), member.absence is Absence.LEFT_OUT, member.default)
        for member in shape.members
    )

    def write(value: Any) -> dict[str, Any]:
        if type(value) is not kind:
            raise expected(value, f"a {kind.__name__}")
        found = {}
        for name, step, left_out, default in steps:
            each = getattr(value, name)
            if left_out and each == default:
                continue
            try:
                found[name] = step(each)
            except Unfit as unfit:
                unfit.path.append(name)
                raise
        return found

    return write


def _write_choice(shape: Choice, tagging: Tagging) -> Step:
    steps = {
        variant.kind: (spelled(variant.name, tagging), _write_record(variant, tagging), bool(variant.members))
        for variant in shape.variants
    }
    options = f"one of {', '.join(variant.name for variant in shape.variants)}"

    def write(value: Any) -> Any:
        if type(value) not in steps:
            raise expected(value, options)
        name, step, has_fields = steps[type(value)]
        return {name: step(value)} if has_fields else name

    return write
