"""What is wrong with a document is said, depth and hostile strings are bounded, and opaque members keep their text."""

from __future__ import annotations

import json

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.wire.strict_json import decoder, dumps, members, parse


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff{}", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1,}', "property name"),
        (b'{"a" 1}', "':' delimiter"),
        (b'{"a":1 "b":2}', "',' delimiter"),
        (b'{"a":1}x', "follows its end"),
        (b'{"a":1', "',' delimiter"),
        (b"{1:1}", "property name"),
        (b"{" + b'"a":' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"[" * 200_000, "64 levels"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, message: str) -> None:
    for read in (parse, members):
        with pytest.raises(InvalidArgumentError, match=message):
            read(body)


def test_brackets_in_strings_are_no_depth() -> None:
    text = json.dumps({"a": "[" * 100, "b": ['\\"[' * 80]})
    assert parse(text) == json.loads(text)
    assert parse("[" * 64 + "]" * 64) == json.loads("[" * 64 + "]" * 64)


def test_hostile_strings_cost_one_pass() -> None:
    # Each took minutes when an unended string was tried again from every escaped quote.
    for tail in ('\\"' * 500_000, '\\"' * 500_000 + "\\", "a" * 1_000_000):
        with pytest.raises(InvalidArgumentError, match="is not JSON"):
            parse("[]," * 65 + '"' + tail)


def test_numbers_of_an_opaque_member_do_not_change() -> None:
    assert members(b'{"input": [1.10, 1E2, 0.1000000000000000055511151231257827] }').raw("input") == (
        b"[1.10, 1E2, 0.1000000000000000055511151231257827]"
    )


def test_objects_are_what_the_reader_wants_of_them() -> None:
    assert parse('{"a": [{"b": 1, "b": 2}]}', by=decoder(list)) == [("a", [[("b", 1), ("b", 2)]])]
    with pytest.raises(InvalidArgumentError, match="NaN is not JSON"):
        parse('{"a": NaN}', by=decoder(list))


def test_dumps_is_compact_and_refuses_what_json_has_no_word_for() -> None:
    assert dumps({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        dumps(float("nan"))
