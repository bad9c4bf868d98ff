"""JSON of numbers, strings and truth: checked the same way when they are read and when they are written."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from arcray.claw_proto.shapes import Unfit, Whole

__all__ = ["Step", "expected", "real", "rust_name", "text", "truth", "whole", "within"]

Step: TypeAlias = Callable[[Any], Any]
"""Takes what stands somewhere in a message and returns what is made of it. It raises ``Unfit``."""


def expected(value: Any, what: str) -> Unfit:
    """Returns what is said of a value that is something else, or nothing."""
    return Unfit("is required" if value is None else f"must be {what}")


def whole(shape: Whole) -> Step:
    """Returns what takes an integer within a range."""
    low, high = shape.low, shape.high

    def read(value: Any) -> int:
        if type(value) is not int:
            raise expected(value, "an integer")
        if not low <= value <= high:
            raise Unfit(f"must be between {low} and {high}")
        return value

    return read


def real(value: Any) -> float:
    """Returns a number as 32 bits hold it: 0.1 is the same in every encoding."""
    if type(value) not in (int, float):
        raise expected(value, "a number")
    try:
        (found,) = struct.unpack("<f", struct.pack("<f", value))
    except (OverflowError, struct.error) as error:
        raise Unfit("must be a number of 32 bits") from error
    if not math.isfinite(found):
        raise Unfit("must be a number of 32 bits")
    return float(found)


def truth(value: Any) -> bool:
    """Takes true or false."""
    if type(value) is not bool:
        raise expected(value, "true or false")
    return value


def text(value: Any) -> str:
    """Takes a string that UTF-8 can carry."""
    if type(value) is not str:
        raise expected(value, "a string")
    if not value.isascii():
        _check_encodable(value)
    return value


def _check_encodable(value: str) -> None:
    # JSON can spell half of a surrogate pair, which no UTF-8 can; it would fail far from here.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unfit("holds half of a surrogate pair") from error


def within(name: str, step: Step, value: Any) -> Any:
    """Takes what stands under a name, which an error then has."""
    try:
        return step(value)
    except Unfit as unfit:
        unfit.path.append(name)
        raise


def rust_name(word: str) -> str:
    """Returns a word as Rust spells it: ``unless_stopped`` is ``UnlessStopped``."""
    return "".join(map(str.capitalize, word.split("_")))
