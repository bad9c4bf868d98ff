"""What a node, its fork servers and their slots say to each other: one datagram each. Imports almost nothing.

A server is asked for slots, by a seat or nothing and the slot's end of a line; it answers in turn, each time with a
pidfd. A slot is asked to run one program after the other: a request comes with the program's files, which are its
output, the token of its start, and what it reads if anything. Both are tuples as ``marshal`` writes them: to read JSON
is a dozen functions of Python, whose pages each fork would have to copy. Answers are five bytes.
"""

from __future__ import annotations

import marshal
import struct

TYPE_CHECKING = False  # importing typing would be a fifth of what a server holds
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ENDED", "KINDS", "LAST", "MADE", "MAX_BYTES", "NO_SEAT", "READY", "Answer", "FrameError", "Request", "Seat"]

MAX_BYTES = 64 * 1024
"""Longest request: well below what a socket takes at once. What asks for more does not begin as a fork."""

NO_SEAT = b"none"
"""Asks for a slot whose programs have nothing in common; a seat asks for another one."""

READY, MADE, ENDED, LAST = 1, 2, 3, 4
KINDS = (READY, MADE, ENDED, LAST)
"""The server serves; a slot is there; a slot's program has ended with this code, and all that it started; so it has,
and the slot runs no other one.
"""

_ANSWER = struct.Struct("<Bi")
_FIELDS = {
    "directory": str,
    "entry": str,
    "args": list,
    "env": dict,
    "limits": dict,
    "uid": int,
    "tmp_bytes": int,
    "archive": bool,
    "reads": bool,
}


class FrameError(ValueError):
    """A datagram is none of ours; the message names what is wrong with it."""


class Seat:
    """What the programs of one slot have one after the other.

    Args:
        directory: name of their directory, in which are ``work`` and ``results``.
        uid: the user that they become, and the group.
        tmp_bytes: of their ``/tmp``, and of their ``/dev/shm``.
    """

    __slots__ = ("directory", "tmp_bytes", "uid")

    def __init__(self, directory: str, uid: int, tmp_bytes: int) -> None:
        self.directory = directory
        self.uid = uid
        self.tmp_bytes = tmp_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seat) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def encoded(self) -> bytes:
        """Returns the datagram."""
        return marshal.dumps(self._all())

    @classmethod
    def decoded(cls, data: bytes) -> Seat:
        """Reads a datagram.

        Raises:
            FrameError: it is no seat.
        """
        directory, uid, tmp_bytes = _values(data, ("directory", str), ("uid", int), ("tmp_bytes", int))
        _check_seat(directory, uid)
        return cls(directory, uid, tmp_bytes)

    def _all(self) -> tuple[str, int, int]:
        return self.directory, self.uid, self.tmp_bytes


class Request:
    """Run one program.

    Args:
        directory: as for ``Seat``, like ``uid`` and ``tmp_bytes``.
        entry: file to run, below ``work``.
        env: its whole environment.
        limits: by the names of ``resource``.
        archive: whether there are more files than that one.
        reads: whether it is handed a file to read.
    """

    __slots__ = tuple(_FIELDS)

    def __init__(
        self,
        *,
        directory: str,
        entry: str,
        args: list[str],
        env: dict[str, str],
        limits: dict[str, int],
        uid: int,
        tmp_bytes: int,
        archive: bool,
        reads: bool,
    ) -> None:
        self.directory = directory
        self.entry = entry
        self.args = args
        self.env = env
        self.limits = limits
        self.uid = uid
        self.tmp_bytes = tmp_bytes
        self.archive = archive
        self.reads = reads

    @property
    def seat(self) -> Seat:
        """Where it runs."""
        return Seat(self.directory, self.uid, self.tmp_bytes)

    def encoded(self) -> bytes:
        """Returns the datagram. It may be longer than ``MAX_BYTES``, and must not be sent then."""
        return marshal.dumps(tuple([getattr(self, name) for name in _FIELDS]))

    @classmethod
    def decoded(cls, data: bytes) -> Request:
        """Reads a datagram.

        Raises:
            FrameError: it is no request.
        """
        values = _values(data, *_FIELDS.items())
        request = cls(**dict(zip(_FIELDS, values, strict=True)))
        for name, held, kind in (
            ("args", request.args, str),
            ("env", request.env.values(), str),
            ("limits", request.limits.values(), int),
        ):
            if {*map(type, held)} - {kind}:
                raise FrameError(f"{name}: holds what is no {kind.__name__}")
        _check_seat(request.directory, request.uid)
        return request


def _values(data: bytes, *fields: tuple[str, type]) -> tuple[Any, ...]:
    """Reads so many values of these kinds."""
    try:
        values = marshal.loads(data)  # noqa: S302 - from the node, which is root like us
    except (ValueError, EOFError, TypeError) as error:
        raise FrameError(f"cannot be read: {error}") from error
    if type(values) is not tuple or len(values) != len(fields):
        raise FrameError(f"must have exactly the fields {', '.join([name for name, _ in fields])}")
    for value, (name, kind) in zip(values, fields, strict=True):
        if type(value) is not kind:
            raise FrameError(f"{name}: must be a {kind.__name__}")
    return values


def _check_seat(directory: str, uid: int) -> None:
    if uid <= 0:
        raise FrameError("uid: must be another user than root")
    if directory in ("", ".", "..") or "/" in directory:
        raise FrameError("directory: must be one name")


class Answer:
    """What has happened; ``code`` is of ``ENDED`` and ``LAST`` alone."""

    __slots__ = ("code", "kind")

    def __init__(self, kind: int, code: int = 0) -> None:
        self.kind = kind
        self.code = code

    def encoded(self) -> bytes:
        """Returns the datagram."""
        return _ANSWER.pack(self.kind, self.code)

    @classmethod
    def decoded(cls, data: bytes) -> Answer:
        """Reads a datagram.

        Raises:
            FrameError: it is no answer.
        """
        if len(data) != _ANSWER.size:
            raise FrameError(f"answer: has {len(data)} bytes and not {_ANSWER.size}")
        kind, code = _ANSWER.unpack(data)
        if kind not in KINDS:
            raise FrameError(f"answer: {kind} is no kind of answer")
        return cls(kind, code)
