"""A whole answer in one write. uvicorn writes head and body apart, and each write to a socket costs some 8 us.

Stands on names that uvicorn does not promise, as ``protocols`` does; ``tests/integration/gateway/test_whole.py``
compares what is written with what uvicorn writes.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

from starlette.responses import Response
from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

__all__ = ["write_whole"]

_BODILESS: Final = (204, 304)
_SERVERS: Final = frozenset({b"connection", b"transfer-encoding"})  # what they say has to be done as well


def write_whole(send: Send, response: Response) -> bool:
    """Writes a response in one piece.

    Returns:
        False where that cannot be done now, or not for this response: it goes by ``send`` then, as every other.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or type(response).__call__ is not Response.__call__:
        return False
    if not _takes_it(cycle, response):
        return False
    headers = (*cycle.default_headers, *response.raw_headers)
    names, values = zip(*headers, strict=True)
    if HEADER_RE.search(b"".join(names)) or HEADER_VALUE_RE.search(b"".join(values)) or not _SERVERS.isdisjoint(names):
        return False
    lines = chain.from_iterable((name, b": ", value, b"\r\n") for name, value in headers)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join((STATUS_LINE[response.status_code], *lines, b"\r\n", response.body)))
    cycle.message_event.set()
    cycle.on_response()
    return True


def _takes_it(cycle: RequestResponseCycle, response: Response) -> bool:
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or not cycle.keep_alive:
        return False
    if cycle.scope["method"] == "HEAD" or response.status_code < 200 or response.status_code in _BODILESS:
        return False
    length = response.headers.get("content-length") if response.background is None else None
    return length == str(len(response.body))
