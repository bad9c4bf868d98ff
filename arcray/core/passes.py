"""Passes: how scheduling rounds, each of which is short, go over a queue that may be long.

A *pass* looks once at every group of the queue, in the queue's order. A round takes it on for some decisions, and the
next round goes on from there: what stands last is reached, however often what stands first is refused. What comes
while a pass is under way takes its place in the order, so something urgent is next. What was passed over stays so until
the next pass, but for the first of it, which a round may look at again because room has appeared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol, TypeAlias

from arcray.core.ids import WorkloadId

__all__ = ["Pass", "Seat"]


class Seat(Protocol):
    """A group of the queue, of which one workload at a time is a candidate.

    Attributes:
        priority: the lower, the earlier.
        entry: number of what stands for it in the pass; whatever has another number is void.
    """

    priority: int
    entry: int

    def first(self) -> tuple[int, WorkloadId] | None:
        """Returns the candidate with its place in the order; None for good once the group is empty."""
        ...


_Entry: TypeAlias = tuple[int, int, int, Seat]  # priority, place in the order, number


class Pass:
    """How far the rounds have come.

    Every seat has one valid entry, either ahead or passed over, that stands no later than its candidate does. Entries
    are made void rather than searched for, and dropped when they come up, so each costs a logarithm.

    Attributes:
        under_way: some seats are still ahead.
    """

    def __init__(self) -> None:
        self.under_way = False
        self._ahead: list[_Entry] = []
        self._passed: list[_Entry] = []
        self._numbers: Final = count(1)
        self._another = False

    @property
    def unfinished(self) -> bool:
        """Whether the rounds have not come to rest: this pass goes on, or another one is to follow."""
        return self.under_way or self._another

    def offer(self, seat: Seat) -> None:
        """Takes up a seat, or takes note that its candidate may stand earlier than before."""
        first = seat.first()
        assert first is not None, "nothing stands for an empty group"
        self._enter(self._ahead, seat, first[0])

    def begin(self) -> None:
        """Begins a pass: all seats are ahead."""
        fewer, more = sorted((self._ahead, self._passed), key=len)
        for entry in fewer:
            heappush(more, entry)
        self._ahead, self._passed = more, []
        self.under_way, self._another = True, False

    def repeat(self) -> None:
        """Has another pass follow this one: what was passed over may fare differently now."""
        self._another = True

    def look_again(self, decisions: int, cost: Callable[[WorkloadId], int]) -> int:
        """Puts the first of those that were passed over ahead once more.

        Args:
            decisions: about how many they may cost; one seat is put ahead whatever it costs.
            cost: decisions that a candidate takes.

        Returns:
            What they cost.
        """
        taken = 0
        while self._passed and taken < decisions:
            entry = heappop(self._passed)
            first = self._valid(entry)
            if first is not None:
                taken += cost(first[1])
                heappush(self._ahead, entry)
        return taken

    def candidates(self) -> Iterator[WorkloadId]:
        """Yields the candidates ahead, in order.

        The reader takes what it was given out of the queue before it asks again, which makes the next of that seat a
        candidate; or leaves it, which passes over the seat; or stops without having decided, and is given it next time.
        """
        while self._ahead:
            entry = self._ahead[0]
            _, sequence, number, seat = entry
            first = self._valid(entry)
            if first is None:
                heappop(self._ahead)
            elif first[0] != sequence:
                heappop(self._ahead)
                self._enter(self._ahead, seat, first[0])
            else:
                yield first[1]
                after = seat.first()
                if after is not None and seat.entry == number:  # else it is gone, or was offered anew
                    self._enter(self._passed if after == first else self._ahead, seat, after[0])
        self.under_way = False

    def _valid(self, entry: _Entry) -> tuple[int, WorkloadId] | None:
        _, _, number, seat = entry
        return seat.first() if seat.entry == number else None

    def _enter(self, heap: list[_Entry], seat: Seat, sequence: int) -> None:
        seat.entry = next(self._numbers)
        heappush(heap, (seat.priority, sequence, seat.entry, seat))
