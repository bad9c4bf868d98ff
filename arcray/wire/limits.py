"""Limits that every wire shares: the size of a request body and the depth of JSON.

Sizes are checked before anything is parsed, and a body without a declared length is counted as it streams in, so a
request costs at most the limit in memory.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arcray.wire.problem import BodyTooLargeError, problem_response

__all__ = ["MAX_JSON_DEPTH", "BodyLimit"]

MAX_JSON_DEPTH: Final = 64
"""Nesting of arrays and objects; the standard parser recurses once per level."""


class BodyLimit:
    """ASGI middleware: answers 413 to a request body over the limit.

    Args:
        max_bytes: largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _declared_length(scope)
        if declared is None:
            await self._counted(scope, receive, send)
        elif declared > self._max_bytes:
            await self._refuse(scope, receive, send)
        else:
            # The server enforces a declared length, so there is nothing to count on the common path.
            await self._app(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = self._max_bytes
        started = False

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLargeError(f"is larger than {self._max_bytes} bytes", field="body")
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
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLargeError(f"is larger than {self._max_bytes} bytes", field="body")
        # The rest of the body is not read; closing keeps it from being taken for the next request.
        refusal = problem_response(error, instance=scope["path"], headers={"Connection": "close"})
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
