"""A telemetry WebSocket that listens while requests run, and counts what it hears."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from arcray.core.errors import UnavailableError

__all__ = ["Listener"]

_MAX_FRAME = 8 * 2**20


class Listener:
    """Listens from entry to exit of its block; what happens inside is heard.

    Args:
        url: base URL of the gateway.
        patience_s: longest wait for the first frame.
    """

    def __init__(self, url: str, patience_s: float = 15.0) -> None:
        self._address = f"ws{url.removeprefix('http')}/telemetry"
        self._patience_s = patience_s
        self._open = ExitStack()
        self._heard = threading.Condition()
        self._events: Counter[str] = Counter()
        self._completed: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # One machine talks to itself here, so neither compression nor a proxy helps.
            socket = stack.enter_context(connect(self._address, compression=None, proxy=None, max_size=_MAX_FRAME))
            thread = threading.Thread(target=self._listen, args=[socket], name="telemetry")
            thread.start()
            stack.callback(thread.join)
            stack.callback(socket.close)  # left in reverse: closing ends the thread, which is then joined
            # The stream begins with a snapshot of all nodes; nothing after it is missed, what was before it may be.
            with self._heard:
                if not self._heard.wait_for(lambda: self._events, self._patience_s):
                    raise UnavailableError(f"{self._address} sent no snapshot in {self._patience_s:g} s")
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def events(self) -> dict[str, int]:
        """Returns how many of each kind were heard, sorted by kind."""
        with self._heard:
            return dict(sorted(self._events.items()))

    def await_completed(self, request_ids: AbstractSet[str], timeout_s: float) -> set[str]:
        """Waits until the completion of every request was heard; returns those that were not."""
        with self._heard:
            self._heard.wait_for(lambda: request_ids <= self._completed, timeout_s)
            return set(request_ids) - self._completed

    def _listen(self, socket: ClientConnection) -> None:
        try:
            for message in socket:
                self._count(json.loads(message))
        except ConnectionClosed:
            return

    def _count(self, frame: dict[str, Any]) -> None:
        kind = " ".join(str(frame[name]) for name in ("type", "status", "severity") if name in frame)
        with self._heard:
            self._events[kind] += 1
            if kind == "inference completed":
                self._completed.add(frame["requestId"])
            self._heard.notify_all()
