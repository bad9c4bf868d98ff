"""Which protocols there are to serve, found without loading any: a start that names another is refused at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from arcray.core.errors import InvalidArgumentError

__all__ = ["check_names", "is_built_in", "shipped"]

_GROUP: Final = "arcray.facades"


def check_names(names: Sequence[str]) -> None:
    """Makes sure that there is a protocol of each name.

    Raises:
        InvalidArgumentError: a name is unknown or comes twice, or there is none.
    """
    if not names:
        raise InvalidArgumentError("names no protocol, so that nothing would be served", field="facades")
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"names a protocol twice: {', '.join(names)}", field="facades")
    for name in names:
        if not is_built_in(name):
            shipped(name)


def is_built_in(name: str) -> bool:
    """Returns whether arcray brings this protocol."""
    # isidentifier keeps a configured name from walking the package tree ("x.y") or importing relatively.
    spec = importlib.util.find_spec(f"arcray.facades.{name}") if name.isidentifier() else None
    # A package with code: a module is none ("__init__"), a folder without code has no origin ("__pycache__").
    return spec is not None and spec.submodule_search_locations is not None and spec.origin is not None


def shipped(name: str) -> EntryPoint:
    """Returns where to load a protocol from that is shipped elsewhere.

    Raises:
        InvalidArgumentError: nobody ships it.
    """
    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise InvalidArgumentError(
            f"no protocol {name!r}: neither arcray.facades.{name} nor an entry point of group {_GROUP}",
            field="facades",
        )
    return next(iter(found))
