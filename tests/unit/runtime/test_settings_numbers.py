"""No setting is a number that is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from arcray.config import Settings, load
from arcray.core.errors import InvalidArgumentError


def numbers(section: type[BaseModel], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields where in the tree a number with a point may stand."""
    for name, field in section.model_fields.items():
        kinds: tuple[Any, ...] = get_args(field.annotation) or (field.annotation,)
        if float in kinds:
            yield (*place, name)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, (*place, name))


NUMBERS = list(numbers(Settings))


def test_all_sections_are_looked_at() -> None:
    assert {place[0] for place in NUMBERS} >= {
        "auth",
        "database",
        "gateway",
        "ledger",
        "node",
        "retention",
        "scheduler",
    }
    assert ("node", "models", "probe_s") in NUMBERS


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for place in NUMBERS:
        with monkeypatch.context() as patch:
            patch.setenv(f"ARCRAY_{'__'.join(place)}".upper(), value)
            with pytest.raises(InvalidArgumentError) as refused:
                load()
        assert refused.value.field == ".".join(place)
