"""One console's telemetry session, sans-I/O: what it sends is judged here, and what it wants to see is decided here.

Source: ArcNet API Reference, "Client-to-Server Messages". Malformed and unknown frames are ignored, because consoles
of other versions send them; only a frame that is too large ends the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias, assert_never

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId
from arcray.facades.arcnet import codec
from arcray.facades.arcnet.messages import Ping, Pong, Subscribe
from arcray.facades.arcnet.projection import Frame

__all__ = ["MAX_FRAME_BYTES", "Action", "Close", "Reply", "TelemetrySession"]

MAX_FRAME_BYTES: Final = 64 * 1024
TOO_BIG: Final = 1009


@dataclass(frozen=True, slots=True)
class Reply:
    """Send this frame."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with this code."""

    code: int
    reason: str


Action: TypeAlias = Reply | Close


class TelemetrySession:
    """What one console asked for.

    Args:
        sees: the account whose requests it may see; None sees all.
    """

    def __init__(self, sees: AccountId | None = None) -> None:
        self._sees = sees
        self._geozones: frozenset[str] = frozenset()

    def receive(self, data: str | bytes, now: datetime) -> Action | None:
        """Takes a frame; returns what to do about it, None for nothing."""
        # A character is at most four bytes: most frames are judged without being encoded.
        if len(data) * 4 > MAX_FRAME_BYTES and _size(data) > MAX_FRAME_BYTES:
            return Close(TOO_BIG, f"a frame may have {MAX_FRAME_BYTES} bytes")
        if isinstance(data, bytes):
            return None  # the protocol speaks in text frames
        try:
            frame = codec.decode_client_frame(data)
        except InvalidArgumentError:
            return None
        match frame:
            case Ping():
                return Reply(Frame(codec.encode_frame(Pong(timestamp=now))))
            case Subscribe():
                self._geozones = frame.geozones
                return None
            case _:
                assert_never(frame)

    def passes(self, frame: Frame) -> bool:
        """Returns whether this console wants to see a frame."""
        if frame.account is not None and self._sees not in (None, frame.account):
            return False
        return frame.geozone is None or not self._geozones or frame.geozone in self._geozones


def _size(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "surrogatepass"))
