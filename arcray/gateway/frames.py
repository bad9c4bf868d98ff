"""Frames that come by WebSocket: so many at a time, and so many a second.

What lives here: parsing in portions, and the limit of one connection, both without I/O. What does not: whose turn it is
and how a connection is closed (protocols). What is too much is not parsed, because parsing is what it costs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import LoggerLike

__all__ = ["BURST_S", "FrameLimit", "PortionedServer"]

BURST_S: Final = 5.0
"""Seconds of a rate that may come at once: a client whose line, or whose gateway, stood still catches up."""


class PortionedServer(ServerProtocol):
    """The server's side of a WebSocket; it parses no more frames than it was allowed to.

    What else it has received waits unparsed, and unbounded: whoever feeds it stops while it is ``behind``.

    Args:
        max_size: bytes of the largest message.
    """

    def __init__(self, *, max_size: int | None, logger: LoggerLike) -> None:
        super().__init__(max_size=max_size, logger=logger)
        self.reader = self._portion = _PortionReader()
        self.parser = self.parse()  # the one that runs already reads from the reader that was there before
        next(self.parser)

    def allow(self, frames: int) -> None:
        """Sets how many frames may be parsed from now on; they are with the next data, which may be none (``b""``)."""
        self._portion.left = frames

    @property
    def behind(self) -> bool:
        """Whether something is here to go on with: frames not parsed, or parsed and not fetched, or a fault."""
        return self._portion.behind or bool(self.events) or self.parser_exc is not None


class _PortionReader(StreamReader):
    """Stops at the beginning of a frame that is one too many; the parser asks there whether the stream has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self.behind = False

    def at_eof(self) -> Generator[None, None, bool]:
        while not self.buffer:
            if self.eof:
                return True
            yield
        while not self.left:
            self.behind = True
            yield
        self.behind = False
        self.left -= 1
        return False


class FrameLimit:
    """A bucket: every frame fills it, and time empties it.

    Args:
        per_s: frames a second that may be sent for long, and ``BURST_S`` times as many at once; 0 is no limit.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._most = per_s * BURST_S
        self._level: float = 0.0
        self._then_s = 0.0

    def take(self, frames: int, now_s: float) -> bool:
        """Counts frames that came; returns whether they may.

        Args:
            now_s: monotonic seconds.
        """
        if not self._per_s:
            return True
        level = self._level - (now_s - self._then_s) * self._per_s
        self._level = level + frames if level > 0 else frames
        self._then_s = now_s
        return self._level <= self._most
