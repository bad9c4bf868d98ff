"""How a message says of what type it is, and what parses it.

It stands in one of two forms: with its type beside its fields and every name in snake case, or as the only member of an
object and every name as Rust spells it. Strict JSON both, in which a known field may come once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from arcray.claw_proto.errors import InvalidMessageError, SerializationError, UnknownMessageTypeError
from arcray.claw_proto.shapes import snake_case
from arcray.core.errors import InvalidArgumentError
from arcray.wire import strict_json

__all__ = [
    "MAX_CONTAINERS",
    "MESSAGE",
    "SHOWN",
    "TAG",
    "Tagging",
    "check_once",
    "parse",
    "spelled",
    "tagged",
    "unknown",
]

TAG: Final = "type"
MESSAGE: Final = "message"
"""What errors call the whole of it."""

SHOWN: Final = 64
"""Characters of a stranger's word that an error repeats."""


MAX_CONTAINERS: Final = 10_000
"""Lists and objects of a message. A node with 64 GPUs has 67."""

_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)  # one token, ended or not: one pass


class Tagging(Enum):
    """Where a message says of what type it is."""

    INTERNAL = "internal"  # {"type": "heartbeat", "node_id": …}
    EXTERNAL = "external"  # {"Heartbeat": {"node_id": …}}


class _Repeated(dict[str, Any]):
    """An object in which a name came twice; it has the last value of each.

    Args:
        names: those that did.
    """

    names: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    seen: set[str] = set()
    repeated.names = frozenset(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # None is meant
    return repeated


_DECODER: Final = strict_json.decoder(_object)


def parse(text: str | bytes) -> Any:
    """Returns what a text says, for ``reader`` and ``tagged``.

    Raises:
        SerializationError: it is not JSON, is nested too deeply, or has too many lists and objects.
    """
    try:
        found = text if isinstance(text, str) else text.decode()
        _check_containers(found)
        return strict_json.parse(found, field=MESSAGE, by=_DECODER)
    except UnicodeDecodeError as error:
        raise SerializationError("is not UTF-8", field=MESSAGE) from error
    except InvalidArgumentError as error:
        raise SerializationError(error.message, field=MESSAGE) from error


def _check_containers(text: str) -> None:
    # Each takes a microsecond here and 60 bytes, and three characters of its sender. Lines of logs may have any number.
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        bare = _STRING.sub("", text)
        if bare.count("[") + bare.count("{") > MAX_CONTAINERS:
            raise SerializationError(f"has more than {MAX_CONTAINERS} lists and objects", field=MESSAGE)


def tagged(value: Any) -> tuple[Tagging, str, Any]:
    """Returns the form of a parsed message, its type as that form spells it, and what has its fields.

    Raises:
        InvalidMessageError: it has no type.
    """
    match value:
        case str():
            return Tagging.EXTERNAL, value, {}
        case dict() if TAG in value:
            check_once(value, (TAG,))
            kind = value[TAG]
            if not isinstance(kind, str):
                raise InvalidMessageError("must be a string", field=TAG)
            return Tagging.INTERNAL, kind, value
        case dict() if len(value) == 1:
            if isinstance(value, _Repeated):
                raise InvalidMessageError("comes twice", field=TAG)
            return Tagging.EXTERNAL, *next(iter(value.items()))
        case dict():
            raise InvalidMessageError("is required", field=TAG)
        case _:
            raise InvalidMessageError("must be an object", field=MESSAGE)


def unknown(kind: str) -> UnknownMessageTypeError:
    """Returns what is said of a type that no message has."""
    return UnknownMessageTypeError(f"{kind[:SHOWN]!r} is no message of this protocol", field=TAG)


def check_once(value: dict[str, Any], names: Iterable[str]) -> None:
    """Refuses an object in which one of these names came twice.

    Raises:
        InvalidMessageError: names it.
    """
    if isinstance(value, _Repeated):
        for name in names:
            if name in value.names:
                raise InvalidMessageError("comes twice", field=name)


def spelled(name: str, tagging: Tagging) -> str:
    """Returns the name of a variant as a form spells it."""
    return name if tagging is Tagging.EXTERNAL else snake_case(name)
