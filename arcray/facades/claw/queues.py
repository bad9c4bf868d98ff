"""Names of the queues that this protocol keeps."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Queue"]


class Queue(StrEnum):
    """A kind of queue; where a process has several of a kind, the longest one counts."""

    SOCKETS = "claw_sockets"  # open WebSockets of nodes
    FRAMES = "claw_frames"  # frames that wait for one of those
    WORDS = "claw_words"  # what one node has said and the scheduler has not taken
