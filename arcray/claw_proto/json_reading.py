"""Reading JSON of any shape, as serde reads it.

Absent and null are the same, and both spellings of an enum inside of a message are read in either form. Unknown fields
are ignored, a known one may come once. Integers stay integers: ``5.0`` and ``true`` are none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, assert_never

from arcray.claw_proto.errors import InvalidMessageError, ProtoError
from arcray.claw_proto.json_scalars import Step, expected, real, rust_name, text, truth, whole, within
from arcray.claw_proto.shapes import (
    Absence,
    Choice,
    Identity,
    Many,
    Maybe,
    Member,
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
    snake_case,
)
from arcray.claw_proto.tagging import SHOWN, TAG, check_once
from arcray.claw_proto.timestamp import Timestamp

__all__ = ["reader"]


@cache
def reader(shape: Shape) -> Step:  # noqa: C901, PLR0911, PLR0912  one arm per shape
    """Returns what reads parsed JSON of this shape. It raises ``Unfit``, which says where."""
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
            return _read_by(shape.kind)
        case Moment():
            return _read_by(Timestamp.parse)
        case Maybe():
            return _read_maybe(reader(shape.of))
        case Many():
            return _read_many(reader(shape.of))
        case Pair():
            return _read_pair
        case Table():
            return _read_table
        case Word():
            return _read_word(shape)
        case Record():
            return _read_record(shape)
        case Choice():
            return _read_choice(shape)
        case _:
            assert_never(shape)


def _read_by(make: Callable[[str], Any]) -> Step:
    def read(value: Any) -> Any:
        if type(value) is not str:
            raise expected(value, "a string")
        try:
            return make(value)
        except ProtoError as error:
            raise Unfit(error.message) from error

    return read


def _read_maybe(read_one: Step) -> Step:
    def read(value: Any) -> Any:
        return None if value is None else read_one(value)

    return read


def _read_many(read_one: Step) -> Step:
    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise expected(value, "a list")
        found: list[Any] = []
        try:
            for each in value:
                found.append(read_one(each))  # noqa: PERF401  its length says where reading stopped
        except Unfit as unfit:
            unfit.path.append(str(len(found)))
            raise
        return tuple(found)

    return read


def _read_pair(value: Any) -> tuple[str, str]:
    if type(value) is not list or len(value) != 2:
        raise expected(value, "a list of two strings")
    return within("0", text, value[0]), within("1", text, value[1])


def _read_table(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise expected(value, "an object of strings")
    return tuple((text(name), within(name[:SHOWN], text, each)) for name, each in value.items())


def _read_word(shape: Word) -> Step:
    snake = {each.value: each for each in shape.kind}
    both = snake | {rust_name(each.value): each for each in shape.kind}
    options = f"one of {', '.join(snake)}"

    def read(value: Any) -> Any:
        found = both.get(value) if type(value) is str else None
        if found is None:
            raise expected(value, options)
        return found

    return read


def _read_record(shape: Record) -> Step:
    kind = shape.kind
    names = tuple(member.name for member in shape.members)
    steps = tuple((member.name, _read_member(member)) for member in shape.members)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            _check_object(value, names)
        found = {}
        for name, step in steps:
            try:
                found[name] = step(value.get(name))
            except Unfit as unfit:
                unfit.path.append(name)
                raise
        return kind(**found)

    return read


def _check_object(value: Any, names: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise expected(value, "an object")
    try:
        check_once(value, names)
    except InvalidMessageError as error:
        unfit = Unfit(error.message)
        unfit.path.append(error.field or "")
        raise unfit from error


def _read_member(member: Member) -> Step:
    step, default = reader(member.shape), member.default
    if member.absence is Absence.REFUSED:
        return step
    return lambda value: default if value is None else step(value)


def _read_choice(shape: Choice) -> Step:
    steps: dict[str, tuple[Step, bool]] = {}
    for variant in shape.variants:
        # Without fields it is its name alone; with some, it may be as an internally tagged enum would have it, too.
        steps |= dict.fromkeys((variant.name, snake_case(variant.name)), (_read_record(variant), bool(variant.members)))
    options = f"one of {', '.join(snake_case(variant.name) for variant in shape.variants)}"

    def read(value: Any) -> Any:
        name: Any = value
        inside: Any = None
        if isinstance(value, dict):
            if TAG in value:
                name, inside = value[TAG], value
            elif len(value) == 1:
                ((name, inside),) = value.items()
        step, has_fields = steps.get(name, (None, False)) if type(name) is str else (None, False)
        if step is None:
            raise expected(value, options)
        return step(inside if has_fields else {})

    return read
