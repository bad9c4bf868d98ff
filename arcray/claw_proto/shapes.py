"""What a type looks like on the wire, read off its declaration.

A declaration says all there is: a dataclass is a struct with its fields in order, ``X | None`` is an option, a tuple of
any length a list, a union of dataclasses an enum with its variants in order, and an alias such as ``U32`` what fits. So
types are written once, as the document has them, and every encoding follows.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

from arcray.claw_proto.ids import NodeId, WorkloadId
from arcray.claw_proto.timestamp import Timestamp

__all__ = [
    "F32",
    "I32",
    "U8",
    "U16",
    "U32",
    "U64",
    "Absence",
    "Choice",
    "Identity",
    "Many",
    "Maybe",
    "Member",
    "Moment",
    "Pair",
    "Real",
    "Record",
    "Shape",
    "StringMap",
    "Table",
    "Text",
    "Truth",
    "Unfit",
    "Whole",
    "Word",
    "shape_of",
    "snake_case",
]


class Unfit(Exception):  # noqa: N818 - never leaves this package
    """A value does not fit.

    Args:
        reason: what it must be.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []
        """Where it stands, innermost first; whoever passes it on adds what it stands in."""
        super().__init__(reason)

    @property
    def field(self) -> str:
        """Where it stands, as errors name it."""
        return ".".join(reversed(self.path))


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer of so many bits.

    Args:
        code: of ``struct``.
    """

    low: int
    high: int
    code: str


@dataclass(frozen=True, slots=True)
class Real:
    """A number of 32 bits."""


@dataclass(frozen=True, slots=True)
class Truth:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A UUID."""

    kind: type[NodeId | WorkloadId]


@dataclass(frozen=True, slots=True)
class Moment:
    """A timestamp."""


@dataclass(frozen=True, slots=True)
class Maybe:
    """Something or nothing."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Many:
    """A list."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Pair:
    """Two strings."""


@dataclass(frozen=True, slots=True)
class Table:
    """A map of strings to strings; pairs in Python, in the order that they came in."""


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words: an enum without fields, in the order of its declaration."""

    kind: type[StrEnum]


class Absence(Enum):
    """What it means that a field is not there."""

    REFUSED = "refused"  # it has to be, unless it is an option
    DEFAULT = "default"  # it has the default; it is always written
    LEFT_OUT = "left out"  # the same, and the default is not written


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A field of a struct.

    Args:
        default: what it is where it is not there; None where that is refused.
    """

    name: str
    shape: Shape
    absence: Absence
    default: Any


@dataclass(frozen=True, slots=True)
class Record:
    """A struct, or a variant of an enum, whose name is that of its class."""

    kind: type[Any]
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """Its name as Rust spells it."""
        return self.kind.__name__


@dataclass(frozen=True, slots=True)
class Choice:
    """An enum with fields."""

    variants: tuple[Record, ...]


Shape: TypeAlias = (
    Whole | Real | Truth | Text | Identity | Moment | Maybe | Many | Pair | Table | Word | Record | Choice
)

U8: TypeAlias = Annotated[int, Whole(0, 2**8 - 1, "B")]
U16: TypeAlias = Annotated[int, Whole(0, 2**16 - 1, "H")]
U32: TypeAlias = Annotated[int, Whole(0, 2**32 - 1, "I")]
U64: TypeAlias = Annotated[int, Whole(0, 2**64 - 1, "Q")]
I32: TypeAlias = Annotated[int, Whole(-(2**31), 2**31 - 1, "i")]
F32: TypeAlias = Annotated[float, Real()]
StringMap: TypeAlias = Annotated[tuple[tuple[str, str], ...], Table()]

_PLAIN: Final[dict[Any, Shape]] = {
    bool: Truth(),
    str: Text(),
    NodeId: Identity(NodeId),
    WorkloadId: Identity(WorkloadId),
    Timestamp: Moment(),
    tuple[str, str]: Pair(),
}
_HUMP: Final = re.compile(r"(?<!^)(?=[A-Z])")


def snake_case(name: str) -> str:
    """Returns a variant's name as internal tagging spells it: ``HeartbeatAck`` is ``heartbeat_ack``."""
    return _HUMP.sub("_", name).lower()


@cache
def shape_of(declared: Any) -> Shape:  # noqa: PLR0911  one arm per sort of type
    """Returns the shape of a declared type.

    Raises:
        TypeError: nothing on this wire looks like that.
    """
    if declared in _PLAIN:
        return _PLAIN[declared]
    if is_dataclass(declared) and isinstance(declared, type):
        return _record(declared)
    if isinstance(declared, type) and issubclass(declared, StrEnum):
        return Word(declared)
    match get_origin(declared), get_args(declared):
        case (found, (of, *marks)) if found is Annotated:
            return next((mark for mark in marks if not isinstance(mark, Absence)), None) or shape_of(of)
        case (found, (of, end)) if found is tuple and end is ...:
            return Many(shape_of(of))
        case (found, arguments) if found in (Union, UnionType):
            return _union(arguments)
        case _:
            return _refuse(declared)


def _union(arguments: tuple[Any, ...]) -> Shape:
    some = tuple(each for each in arguments if each is not NoneType)
    if len(some) < len(arguments):
        return Maybe(shape_of(some[0]) if len(some) == 1 else _union(some))
    found = tuple(map(shape_of, some))
    variants = tuple(each for each in found if isinstance(each, Record))
    return Choice(variants) if len(variants) == len(found) else _refuse(arguments)


def _record(kind: type[Any]) -> Record:
    hints = get_type_hints(kind, include_extras=True)
    members = []
    for field in fields(kind):
        marks = get_args(hints[field.name])[1:] if get_origin(hints[field.name]) is Annotated else ()
        absence = next((mark for mark in marks if isinstance(mark, Absence)), Absence.REFUSED)
        default = field.default if absence is not Absence.REFUSED else None
        assert default is not MISSING, f"{kind.__name__}.{field.name} may be absent and says not what it is then"
        members.append(Member(name=field.name, shape=shape_of(hints[field.name]), absence=absence, default=default))
    return Record(kind, tuple(members))


def _refuse(declared: Any) -> NoReturn:
    raise TypeError(f"nothing on this wire looks like {declared!r}")
