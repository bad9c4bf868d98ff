"""How many requests an address may make: a sliding window. Sans-I/O.

Source: Resource Pool API Documentation, "Rate Limits".
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

__all__ = ["SlidingWindow"]

_ADDRESSES: Final = 10_000  # that are remembered; the one that was heard longest ago is forgotten first


class SlidingWindow:
    """Counts requests of each address over the last ``window_s`` seconds.

    Args:
        most: of one address; 0 is no limit.
    """

    def __init__(self, most: int, window_s: float = 60.0) -> None:
        self._most = most
        self._window_s = window_s
        self._taken: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, address: str, now_s: float) -> float | None:
        """Counts a request.

        Returns:
            None where it is within the limit; else after how many seconds the next one is, and it does not count.
        """
        if not self._most:
            return None
        taken = self._taken.setdefault(address, deque())
        self._taken.move_to_end(address)
        if len(self._taken) > _ADDRESSES:
            self._taken.popitem(last=False)
        while taken and taken[0] <= now_s - self._window_s:
            taken.popleft()
        if len(taken) >= self._most:
            return taken[0] + self._window_s - now_s
        taken.append(now_s)
        return None
