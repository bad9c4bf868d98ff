"""Rows leave out what equals its default, so a default that changes would change what rows of before say.

``stored_defaults.json`` beside this file has every default of every type that rows are made of. A new field is added to
it by hand. A default that has to change gets a new field, or a migration that spells the old one out in every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from arcray.core.events import Event
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, Entry
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation
from arcray.core.workload import Workload

STORED = (Workload, Node, Model, Reservation, AccountQuota, Account, Entry, ApiKey, Event)
RECORDED = Path(__file__).with_name("stored_defaults.json")


def dataclasses_in(annotation: Any, seen: set[type]) -> Iterator[type]:
    """Yields every dataclass that a value of an annotation may hold, at any depth."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        if annotation in seen:
            return
        seen.add(annotation)
        yield annotation
        for hint in get_type_hints(annotation).values():
            yield from dataclasses_in(hint, seen)
    for argument in get_args(annotation):
        yield from dataclasses_in(argument, seen)


def defaults_of(kind: type) -> Iterator[tuple[str, str]]:
    for each in fields(kind):
        if each.default is not MISSING:
            yield f"{kind.__name__}.{each.name}", repr(each.default)
        elif each.default_factory is not MISSING:
            yield f"{kind.__name__}.{each.name}", repr(each.default_factory())


def test_no_default_of_what_is_stored_has_changed() -> None:
    seen: set[type] = set()
    kinds = [kind for stored in STORED for kind in dataclasses_in(stored, seen)]
    assert len({kind.__name__ for kind in kinds}) == len(kinds), "two types of one name"
    found = dict(pair for kind in kinds for pair in defaults_of(kind))
    assert found == json.loads(RECORDED.read_text(encoding="utf-8"))
