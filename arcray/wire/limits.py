"""Limits that wires share: the size of a request body, for all and for single paths.

Sizes are checked before anything is parsed, and a body without a declared length is counted as it streams in, so a
request costs at most the limit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arcray.wire.problem import BodyTooLargeError, problem_response

__all__ = ["BodyBound", "BodyLimit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyBound:
    """How large a body may be.

    Args:
        bytes: the largest.
        setting: which says so, for whoever meets it.
    """

    bytes: int
    setting: str

    def refusal(self) -> BodyTooLargeError:
        """Returns what a larger one is told."""
        return BodyTooLargeError(f"is larger than the {self.bytes} bytes that {self.setting} allows", field="body")


class BodyLimit:
    """ASGI middleware: answers 413 to a request body over the limit.

    Args:
        bound: of every path.
        tighter: of single paths, where it is less.
    """

    def __init__(self, app: ASGIApp, bound: BodyBound, tighter: Mapping[str, BodyBound]) -> None:
        self._app = app
        self._bound = bound
        self._tighter = {path: own for path, own in tighter.items() if own.bytes < bound.bytes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bound = self._tighter.get(scope["path"], self._bound)
        declared = _declared_length(scope)
        if declared is None:
            await self._counted(bound, scope, receive, send)
        elif declared > bound.bytes:
            await _refuse(bound, scope, receive, send)
        else:
            # The server enforces a declared length, so there is nothing to count on the common path.
            await self._app(scope, receive, send)

    async def _counted(self, bound: BodyBound, scope: Scope, receive: Receive, send: Send) -> None:
        left = bound.bytes
        started = False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise bound.refusal()
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except BodyTooLargeError:
            if started:
                raise
            await _refuse(bound, scope, receive, send)


async def _refuse(bound: BodyBound, scope: Scope, receive: Receive, send: Send) -> None:
    # The rest of the body is not read; closing keeps it from being taken for the next request.
    refusal = problem_response(bound.refusal(), instance=scope["path"], headers={"Connection": "close"})
    await refusal(scope, receive, send)


def _declared_length(scope: Scope) -> int | None:
    """Returns the body's length as the headers state it; None when only reading it will tell."""
    length: int | None = 0  # neither header means no body (RFC 9112, section 6.3)
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
    return length
