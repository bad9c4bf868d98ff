"""Names of the queues that this protocol keeps."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Queue"]


class Queue(StrEnum):
    """A kind of queue; where a process has several of a kind, the longest one counts."""

    SOCKETS = "sockets"  # open telemetry WebSockets
    FRAMES = "socket_frames"  # frames that wait for one of those
