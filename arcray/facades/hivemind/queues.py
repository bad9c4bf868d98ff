"""Names of the queues that this protocol keeps."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Queue"]


class Queue(StrEnum):
    """A kind of queue; where a process has several of a kind, the longest one counts."""

    LOGINS = "logins"  # passwords that are worked on, or wait for their turn
    DIALS = "dials"  # orders that wait for one worker, or are on their way to it
