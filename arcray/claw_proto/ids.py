"""Ids of nodes and workloads: UUIDs, as text in one spelling.

Source: claw-proto API Reference, "NodeId" and "WorkloadId". The document makes version 4; any version is read.
"""

from __future__ import annotations

import re
from typing import Final, Self
from uuid import uuid4  # noqa: TID251 - for the document's `new`; what is arcray's own gets its ids by Ids

from arcray.claw_proto.errors import InvalidMessageError

__all__ = ["NodeId", "WorkloadId"]

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HYPHENATED: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_SPELLINGS: Final = re.compile(rf"{_HYPHENATED}|\{{{_HYPHENATED}\}}|urn:uuid:{_HYPHENATED}|[0-9a-fA-F]{{32}}")


class _Identity(str):
    """A UUID in lower case and with hyphens.

    Args:
        text: the same in any case, without hyphens, in braces, or after ``urn:uuid:``.

    Raises:
        InvalidMessageError: it is no UUID.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Returns the id that a text spells."""
        return super().__new__(cls, text if _CANONICAL.fullmatch(text) else _canonical(text))

    @classmethod
    def new(cls) -> Self:
        """Returns an id that nothing has yet."""
        return cls(str(uuid4()))

    @classmethod
    def from_str(cls, text: str) -> Self:
        """Returns the id that a text spells; the same as to call the class."""
        return cls(text)


class NodeId(_Identity):
    """Names a node."""

    __slots__ = ()


class WorkloadId(_Identity):
    """Names a workload."""

    __slots__ = ()


def _canonical(text: str) -> str:
    if not _SPELLINGS.fullmatch(text):
        raise InvalidMessageError("is not a UUID")
    digits = text.removeprefix("urn:uuid:").strip("{}").replace("-", "").lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
