"""What a node and a fork server say to each other: one datagram each. Read by both, and imports almost nothing.

A request is JSON and comes with the program's files: output, the token of its start, and what it reads if anything. An
answer is nine bytes; ``FORKED`` comes with a pidfd. Each names the request by its number.
"""

from __future__ import annotations

import json
import struct

__all__ = ["ENDED", "FORKED", "KINDS", "MAX_BYTES", "READY", "REFUSED", "Answer", "FrameError", "Request"]

MAX_BYTES = 64 * 1024
"""Longest request: well below what a socket takes at once. What asks for more does not begin as a fork."""

READY, FORKED, ENDED, REFUSED = 1, 2, 3, 4
KINDS = (READY, FORKED, ENDED, REFUSED)
"""The server serves; a program's processes are there; they have ended, with this code; they cannot be made."""

_ANSWER = struct.Struct("<BIi")
_MAX_NUMBER = 2**32 - 1
_FIELDS = {
    "number": int,
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


class Request:
    """Run one program.

    Args:
        number: names it in answers; unsigned, 32 bits.
        directory: name of its directory, in which are ``work`` and ``results``.
        entry: file to run, below ``work``.
        env: its whole environment.
        limits: by the names of ``resource``.
        uid: the user it becomes, and the group.
        tmp_bytes: of its ``/tmp``, and of its ``/dev/shm``.
        archive: whether there are more files than that one.
        reads: whether it is handed a file to read.
    """

    __slots__ = tuple(_FIELDS)

    def __init__(
        self,
        *,
        number: int,
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
        self.number = number
        self.directory = directory
        self.entry = entry
        self.args = args
        self.env = env
        self.limits = limits
        self.uid = uid
        self.tmp_bytes = tmp_bytes
        self.archive = archive
        self.reads = reads

    def encoded(self) -> bytes:
        """Returns the datagram. It may be longer than ``MAX_BYTES``, and must not be sent then."""
        return json.dumps({name: getattr(self, name) for name in _FIELDS}, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, data: bytes) -> Request:
        """Reads a datagram.

        Raises:
            FrameError: it is no request.
        """
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"request: is not JSON: {error}") from error
        if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
            raise FrameError(f"request: must have exactly the fields {', '.join(_FIELDS)}")
        for name, kind in _FIELDS.items():
            if type(fields[name]) is not kind:
                raise FrameError(f"{name}: must be a {kind.__name__}")
        for name in ("args", "env", "limits"):
            found, kind = fields[name], int if name == "limits" else str
            if any(type(each) is not kind for each in (found if isinstance(found, list) else found.values())):
                raise FrameError(f"{name}: holds what is no {kind.__name__}")
        if not 0 <= fields["number"] <= _MAX_NUMBER:
            raise FrameError("number: must be unsigned and of 32 bits")
        if fields["uid"] <= 0:
            raise FrameError("uid: must be another user than root")
        if fields["directory"] in ("", ".", "..") or "/" in fields["directory"]:
            raise FrameError("directory: must be one name")
        return cls(**fields)


class Answer:
    """What became of a request; ``code`` is of ``ENDED`` alone."""

    __slots__ = ("code", "kind", "number")

    def __init__(self, kind: int, number: int = 0, code: int = 0) -> None:
        self.kind = kind
        self.number = number
        self.code = code

    def encoded(self) -> bytes:
        """Returns the datagram."""
        return _ANSWER.pack(self.kind, self.number, self.code)

    @classmethod
    def decoded(cls, data: bytes) -> Answer:
        """Reads a datagram.

        Raises:
            FrameError: it is no answer.
        """
        if len(data) != _ANSWER.size:
            raise FrameError(f"answer: has {len(data)} bytes and not {_ANSWER.size}")
        kind, number, code = _ANSWER.unpack(data)
        if kind not in KINDS:
            raise FrameError(f"answer: {kind} is no kind of answer")
        return cls(kind, number, code)
