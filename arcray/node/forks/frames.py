"""What a node, its fork servers and their slots say to each other: one datagram each. Imports almost nothing.

A server is asked for slots, by ``SLOT`` and the slot's end of a line; it answers in turn, each time with a pidfd. A
slot is asked to run one program after the other: a request is JSON and comes with the program's files, which are its
output, the token of its start, and what it reads if anything. Answers are five bytes.
"""

from __future__ import annotations

import json
import struct

__all__ = ["ENDED", "KINDS", "MADE", "MAX_BYTES", "READY", "SLOT", "Answer", "FrameError", "Request"]

MAX_BYTES = 64 * 1024
"""Longest request: well below what a socket takes at once. What asks for more does not begin as a fork."""

SLOT = b"slot"
"""All that is said to a server, each time with a line."""

READY, MADE, ENDED = 1, 2, 3
KINDS = (READY, MADE, ENDED)
"""The server serves; a slot is there; a slot's program has ended with this code, and all that it started."""

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


class Request:
    """Run one program.

    Args:
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
        if fields["uid"] <= 0:
            raise FrameError("uid: must be another user than root")
        if fields["directory"] in ("", ".", "..") or "/" in fields["directory"]:
            raise FrameError("directory: must be one name")
        return cls(**fields)


class Answer:
    """What has happened; ``code`` is of ``ENDED`` alone."""

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
