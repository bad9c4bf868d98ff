from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import timedelta

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.core.queries import WorkloadCursor
from arcray.facades.rest.cursors import cursor_of, cursor_text
from arcray.testing.builders import T0, a_workload


@pytest.mark.parametrize("microseconds", [0, 1, -(10**15), 123_456_789_012_345])
def test_a_cursor_comes_back_exactly(microseconds: int) -> None:
    cursor = WorkloadCursor(created_at=T0 + timedelta(microseconds=microseconds), id=a_workload(7).id)
    assert cursor_of(cursor_text(cursor)) == cursor


def test_a_cursor_needs_no_escaping_in_a_query() -> None:
    text = cursor_text(WorkloadCursor(created_at=T0, id=a_workload(7).id))
    assert text.replace("-", "").replace("_", "").isalnum()


def _text(plain: str) -> str:
    return urlsafe_b64encode(plain.encode()).decode()


@pytest.mark.parametrize(
    "text",
    ["x", "%%%", "ä", _text("1"), _text("1 2"), _text(f"x {a_workload(7).id}"), _text(f"{10**30} {a_workload(7).id}"),
     _text(f"1 {a_workload(7).id} 3"), "_" * 128],
)  # fmt: skip
def test_what_is_no_cursor_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        cursor_of(text)
    assert caught.value.field == "cursor"
