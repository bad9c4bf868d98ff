"""What a node and its fork servers say to each other: all of it comes across, and nothing else is taken for it."""

from __future__ import annotations

import marshal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from arcray.node.forks.frames import KINDS, Answer, FrameError, Request

TEXT = some.text(max_size=40)
FIELDS = some.fixed_dictionaries({
    "directory": some.text(some.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1).filter(
        lambda name: name not in (".", "..")
    ),
    "entry": TEXT,
    "args": some.lists(TEXT, max_size=5),
    "env": some.dictionaries(TEXT, TEXT, max_size=5),
    "limits": some.dictionaries(TEXT, some.integers(0, 2**63), max_size=5),
    "uid": some.integers(1, 2**32 - 2),
    "tmp_bytes": some.integers(0, 2**40),
    "archive": some.booleans(),
    "reads": some.booleans(),
})  # fmt: skip
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | TEXT,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


ORDER = ("directory", "entry", "args", "env", "limits", "uid", "tmp_bytes", "archive", "reads", "further")


def written(fields: dict[str, Any]) -> bytes:
    return marshal.dumps(tuple(fields[name] for name in ORDER if name in fields))


@given(FIELDS)
def test_a_request_comes_across(fields: dict[str, object]) -> None:
    found = Request.decoded(Request(**fields).encoded())  # type: ignore[arg-type]  # drawn with the right types
    assert {name: getattr(found, name) for name in fields} == fields


@given(some.sampled_from(KINDS), some.integers(-(2**31), 2**31 - 1))
def test_an_answer_comes_across(kind: int, code: int) -> None:
    found = Answer.decoded(Answer(kind, code).encoded())
    assert (found.kind, found.code) == (kind, code)


@given(some.binary(max_size=20))
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """Answers come from below the sandbox; requests come from the node, and nothing else can send one."""
    if len(data) != len(Answer(1).encoded()) or data[0] not in KINDS:
        with pytest.raises(FrameError):
            Answer.decoded(data)


@pytest.mark.parametrize("data", [b"", b"none", b"{}", b"i", b"(\x01", marshal.dumps([1])])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        Request.decoded(data)


@given(FIELDS, some.data())
def test_a_field_of_another_kind_is_refused_by_its_name(fields: dict[str, object], data: some.DataObject) -> None:
    name = data.draw(some.sampled_from(sorted(fields)))
    wrong = data.draw(VALUES.filter(lambda value: type(value) is not type(fields[name])))
    with pytest.raises(FrameError, match=name):
        Request.decoded(written({**fields, name: wrong}))


@given(FIELDS, some.data())
def test_a_field_too_few_or_too_many_is_refused(fields: dict[str, object], data: some.DataObject) -> None:
    name = data.draw(some.sampled_from(sorted(fields)))
    for changed in ({key: fields[key] for key in fields if key != name}, {**fields, "further": 1}):
        with pytest.raises(FrameError, match="exactly the fields"):
            Request.decoded(written(changed))


@pytest.mark.parametrize("directory", ["", ".", "..", "a/b", "/"])
def test_a_directory_is_one_name(directory: str) -> None:
    request = Request(
        directory=directory, entry="main.py", args=[], env={}, limits={}, uid=1, tmp_bytes=0, archive=False, reads=False
    )
    with pytest.raises(FrameError, match="directory: must be one name"):
        Request.decoded(request.encoded())


@pytest.mark.parametrize("uid", [0, -1])
def test_no_program_is_root(uid: int) -> None:
    request = Request(
        directory="d", entry="main.py", args=[], env={}, limits={}, uid=uid, tmp_bytes=0, archive=False, reads=False
    )
    with pytest.raises(FrameError, match="uid: must be another user than root"):
        Request.decoded(request.encoded())


def test_what_holds_other_things_is_refused() -> None:
    fields = {
        "directory": "d", "entry": "e", "args": [1], "env": {}, "limits": {}, "uid": 1, "tmp_bytes": 0,
        "archive": False, "reads": False,
    }  # fmt: skip
    for change in ({}, {"args": [], "env": {"a": 1}}, {"args": [], "limits": {"a": "b"}}):
        with pytest.raises(FrameError, match="holds what is no"):
            Request.decoded(written(fields | change))
