"""How often the password of a user may be guessed: so many times at once, and then at a pace.

It is counted for each name, known or not, so that what is refused tells nobody who is a user; where a guess comes from
says little behind a gateway. Who knows the password may have to wait while others guess, and keeps their token. Memory
is bounded: where more names are guessed at than are remembered, those that have the fewest wrong guesses are forgotten
first. No I/O.
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import ResourceExhaustedError
from arcray.core.ids import AccountId
from arcray.core.ports import Clock

__all__ = ["Guesses"]

_NAMES: Final = 10_000


class Guesses:
    """Wrong guesses by name, for one process.

    Args:
        at_once: wrong ones in a row before there is a wait.
        per_minute: further ones after that.
    """

    def __init__(self, clock: Clock, *, at_once: int, per_minute: float, names: int = _NAMES) -> None:
        self._clock = clock
        self._at_once = at_once
        self._per_s = per_minute / 60
        self._names = names
        self._spent: dict[AccountId, tuple[float, float]] = {}  # how many, and when that was

    def take(self, name: AccountId) -> None:
        """Counts a guess, before it is looked at.

        Raises:
            ResourceExhaustedError: too many were wrong.
        """
        spent = self._spent_on(name)
        if spent > self._at_once - 1:
            wait_s = (spent - self._at_once + 1) / self._per_s
            raise ResourceExhaustedError(f"too many wrong passwords; try again in {wait_s:.0f} s", field="username")
        self._set(name, spent + 1)
        if len(self._spent) > self._names:  # all that are made good at once: to look for one takes 3 ms
            self._spent = {each: spent for each, spent in self._spent.items() if self._spent_on(each) > 0}
        if len(self._spent) > self._names:
            del self._spent[min(self._spent, key=self._spent_on)]

    def right(self, name: AccountId) -> None:
        """Forgets the wrong ones."""
        self._spent.pop(name, None)

    def _set(self, name: AccountId, spent: float) -> None:
        self._spent[name] = (spent, self._clock.monotonic())

    def _spent_on(self, name: AccountId) -> float:
        """Returns how many are not made good by the time that has passed."""
        spent, at_s = self._spent.get(name, (0.0, 0.0))
        return max(0.0, spent - (self._clock.monotonic() - at_s) * self._per_s)
