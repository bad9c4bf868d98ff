"""What the head of a request may be: so many bytes, its target counted, and so many headers.

What lives here: the limits, without I/O, and the refusal of a request that nobody has answered. What does not: when a
head is judged and how its connection ends (protocols). Heads come before any key is looked at, so whoever reaches the
port may send them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.wire.problem import problem_response

__all__ = ["HeadLimit", "Refusal"]

_BETWEEN: Final = len(b": \r\n")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a connection is told before it is closed.

    Args:
        status: more exact than that of the error's code.
    """

    error: ArcrayError
    status: HTTPStatus

    def response(self) -> Response:
        """Returns it as an application answers."""
        return problem_response(self.error, status=self.status, headers={"Connection": "close"})

    def as_http(self) -> bytes:
        """Returns it as it is written where no application answers."""
        refusal = self.response()
        head = b"".join(b"%b: %b\r\n" % header for header in refusal.raw_headers)
        begin = f"HTTP/1.1 {self.status} {self.status.phrase}\r\n".encode()
        return b"".join((begin, head, b"\r\n", refusal.body))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimit:
    """The limits of one listener.

    Args:
        size_bytes: target and headers of one request together; also what its trailers may be.
        headers: how many.
    """

    size_bytes: int
    headers: int

    def judge(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Returns why a complete head is refused; None where it is not."""
        if len(headers) > self.headers:
            return _refusal("headers", f"are more than the {self.headers} that gateway.max_headers allows")
        size_bytes = len(target) + sum(len(name) + len(value) + _BETWEEN for name, value in headers)
        return self.too_long(target) if size_bytes > self.size_bytes else None

    def too_long(self, target: bytes) -> Refusal:
        """Returns the refusal of a head that is too long, or of trailers.

        Args:
            target: what has come of it.
        """
        too_much = f"longer than the {self.size_bytes} bytes that gateway.max_header_bytes allows"
        if len(target) > self.size_bytes:
            return _refusal("target", f"is {too_much}", HTTPStatus.REQUEST_URI_TOO_LONG)
        return _refusal("headers", f"are {too_much}, with the target")


def _refusal(field: str, message: str, status: HTTPStatus = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) -> Refusal:
    return Refusal(InvalidArgumentError(message, field=field), status)
