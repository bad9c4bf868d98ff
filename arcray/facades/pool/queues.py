"""Names of the queues that this protocol keeps."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Queue"]


class Queue(StrEnum):
    """A kind of queue; where a process has several of a kind, the longest one counts."""

    SOCKETS = "device_sockets"  # open WebSockets of devices that lend
    FRAMES = "device_frames"  # frames that wait for one of those
    TASKS = "tasks"  # tasks of one socket that it waits for
