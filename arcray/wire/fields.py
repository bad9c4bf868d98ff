"""Typed reading of decoded objects: a member has the type and range that was asked for, or an error names it.

Absent and null mean the same. Unknown members are ignored. Integers stay integers: ``true`` and ``5.0`` are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

from arcray.core.errors import InvalidArgumentError
from arcray.core.quantity import MAX_QUANTITY

__all__ = ["Fields"]

_E = TypeVar("_E", bound=Enum)

MAX_TEXT: Final = 1 << 16


class Fields:
    """The members of one object.

    Args:
        values: decoded members.
        path: where the object stands, prefixed to the names in errors; "" for the document itself.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    def text(self, name: str, default: str | None = None, *, shortest: int = 0, longest: int = MAX_TEXT) -> str:
        """Returns a string; required when there is no default. Lengths are in characters."""
        value = self._values.get(name)
        if value is None:
            return self._missing(name) if default is None else default
        if not isinstance(value, str):
            raise self._wrong(name, "must be a string")
        if not shortest <= len(value) <= longest:
            raise self._wrong(name, f"must have {shortest} to {longest} characters")
        if not value.isascii():
            self._encodable(name, value)
        return value

    def integer(self, name: str, default: int | None = None, *, low: int = 0, high: int = MAX_QUANTITY) -> int:
        """Returns an integer; required when there is no default."""
        value = self._values.get(name)
        if value is None:
            return self._missing(name) if default is None else default
        if type(value) is not int:
            raise self._wrong(name, "must be an integer")
        if not low <= value <= high:
            raise self._wrong(name, f"must be between {low} and {high}")
        return value

    def choice(self, name: str, options: Mapping[str, _E], default: _E | None = None) -> _E:
        """Returns the member of an enum that a word stands for; required when there is no default."""
        value = self._values.get(name)
        if value is None:
            return self._missing(name) if default is None else default
        found = options.get(value) if isinstance(value, str) else None
        if found is None:
            raise self._wrong(name, f"must be one of {', '.join(options)}")
        return found

    def numbers(self, name: str, ranges: Sequence[tuple[float, float]]) -> tuple[float, ...] | None:
        """Returns a list of as many numbers as there are ranges, each within its own; None when absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != len(ranges):
            raise self._wrong(name, f"must be a list of {len(ranges)} numbers")
        for index, (item, (low, high)) in enumerate(zip(value, ranges, strict=True)):
            if type(item) not in (int, float) or not low <= item <= high:
                raise self._wrong(f"{name}.{index}", f"must be a number between {low:g} and {high:g}")
        return tuple(map(float, value))

    def texts(self, name: str, *, most: int, longest: int = MAX_TEXT) -> tuple[str, ...]:
        """Returns a list of strings; () when absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > most:
            raise self._wrong(name, f"must be a list of at most {most} strings")
        for index, item in enumerate(value):
            if not isinstance(item, str) or len(item) > longest:
                raise self._wrong(f"{name}.{index}", f"must be a string of at most {longest} characters")
            self._encodable(f"{name}.{index}", item)
        return tuple(value)

    def _encodable(self, name: str, value: str) -> None:
        # JSON can spell half of a surrogate pair, which no UTF-8 can; it would fail far from here.
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self._wrong(name, "holds half of a surrogate pair") from error

    def _missing(self, name: str) -> Any:
        raise self._wrong(name, "is required")

    def _wrong(self, name: str, message: str) -> InvalidArgumentError:
        return InvalidArgumentError(message, field=f"{self._path}.{name}" if self._path else name)
