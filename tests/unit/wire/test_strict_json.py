"""Any bytes decode to a value or to an InvalidArgumentError that names a field, and opaque members keep their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.core.errors import InvalidArgumentError
from arcray.wire.strict_json import dumps, members, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_document_is_read_as_the_standard_parser_reads_it(value: Any) -> None:
    text = json.dumps(value)
    assert parse(text) == value
    assert parse(dumps_or_skip(value)) == value


def dumps_or_skip(value: Any) -> bytes:
    try:
        return dumps(value)
    except UnicodeEncodeError:  # half a surrogate pair, which only the escaped form can carry
        return json.dumps(value).encode()


@given(st.dictionaries(st.text(), JSON, max_size=6), st.sampled_from([None, 1, 3]))
def test_members_agree_with_the_document_and_keep_their_text(value: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    found = members(text)
    assert found.values == value
    for name, member in value.items():
        raw = found.raw(name)
        assert raw is not None
        assert raw.decode() in text
        assert json.loads(raw) == member
    assert found.raw("no such member") is None or "no such member" in value


@given(
    st.binary() | st.text().map(str.encode) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsnN \\').map(str.encode)
)
def test_any_bytes_are_a_value_or_a_refusal_that_names_the_body(body: bytes) -> None:
    try:
        expected = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        for read in (parse, members):
            with pytest.raises(InvalidArgumentError) as refusal:
                read(body)
            assert refusal.value.field == "body"
        return
    assert parse(body) == expected
    if isinstance(expected, dict):
        assert members(body).values == expected
    else:
        with pytest.raises(InvalidArgumentError, match="must be an object"):
            members(body)


def refuse(name: str) -> Any:
    raise ValueError(name)


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


def test_dumps_is_compact_and_refuses_what_json_has_no_word_for() -> None:
    assert dumps({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        dumps(float("nan"))
