"""A field has the type and range asked for, or the error names it with its path."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.wire.fields import Fields


class Size(Enum):
    SMALL = 1
    LARGE = 2


SIZES = {"small": Size.SMALL, "large": Size.LARGE}


def test_absent_and_null_take_the_default() -> None:
    for values in ({}, {"a": None}):
        fields = Fields(values)
        assert fields.text("a", "x") == "x"
        assert fields.integer("a", 5) == 5
        assert fields.choice("a", SIZES, Size.LARGE) is Size.LARGE
        assert fields.numbers("a", [(0, 1)]) is None
        assert fields.texts("a", most=1) == ()


def test_right_values_are_returned() -> None:
    fields = Fields({"t": "é", "i": 7, "n": 1, "c": "small", "p": [1, 2.5], "s": ["a", "b"]})
    assert fields.text("t", shortest=1, longest=1) == "é"
    assert fields.integer("i", low=7, high=7) == 7
    assert fields.choice("c", SIZES) is Size.SMALL
    assert fields.numbers("p", [(0, 1), (2, 3)]) == (1.0, 2.5)
    assert fields.texts("s", most=2) == ("a", "b")


@pytest.mark.parametrize("value", [True, 5.0, "5", [5], {}, -1, 2**53, float("nan"), "\ud800", ["\ud800"]])
def test_wrong_values_are_refused_by_name(value: Any) -> None:
    fields = Fields({"a": value}, "outer")
    reads: list[Callable[[], object]] = [
        lambda: fields.integer("a"),
        lambda: fields.choice("a", SIZES),
        lambda: fields.numbers("a", [(0, 1)]),
        lambda: fields.text("a", longest=0),
        lambda: fields.texts("a", most=1, longest=1),
    ]
    for read in reads:
        with pytest.raises(InvalidArgumentError) as refusal:
            read()
        assert (refusal.value.field or "").startswith("outer.a")


@pytest.mark.parametrize("item", [True, "1", None, float("inf"), float("nan"), 1.5, -0.5])
def test_list_of_numbers_names_the_wrong_one(item: Any) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        Fields({"source": [0.5, item]}).numbers("source", [(0, 1), (0, 1)])
    assert refusal.value.field == "source.1"


def test_required_fields_are_required() -> None:
    fields = Fields({})
    reads: list[Callable[[str], object]] = [fields.text, fields.integer]
    for read in reads:
        with pytest.raises(InvalidArgumentError, match="a: is required"):
            read("a")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        Fields({"a": "x\ud800"}).text("a")
