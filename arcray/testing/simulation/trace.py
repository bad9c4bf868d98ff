"""What happened, in words: one line per occurrence, for people who look for the reason of a failure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

__all__ = ["Trace"]


class Trace:
    """Lines with their virtual time.

    Args:
        time: virtual seconds.
        keep: whether lines are kept; a digest of them always is, so that two runs can be compared.
    """

    def __init__(self, time: Callable[[], float], *, keep: bool) -> None:
        self.lines: list[str] = []
        self._time = time
        self._keep = keep
        self._digest = hashlib.blake2b(digest_size=8)

    def say(self, who: str, what: str) -> None:
        """Adds a line."""
        line = f"{self._time():10.4f}  {who:<12} {what}"
        self._digest.update(line.encode())
        if self._keep:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Equal for two runs in which the same happened."""
        return self._digest.hexdigest()
