"""Refusals: what is known of requests that did not fit, so that equal requests do not each pay for a scan.

A queue holds many equal requests that wait for the same thing. The first one refused pays for the words of all nodes;
after that only the nodes that changed in between are looked at again, and a request that is still refused gets its
explanation without a search. When nothing changed the same explanation is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from arcray.core.ids import NodeId
from arcray.core.placement.advice import advise
from arcray.core.placement.columns import ABSENT, Columns, Integers, Slots
from arcray.core.placement.explain import Explanation, FilterRefusal
from arcray.core.placement.filters import FILTERS, WORDS, Words
from arcray.core.placement.request import PlacementRequest

__all__ = ["Refusals"]

_MEMORY_BYTES: Final = 32 << 20  # for words of remembered requests, two bytes per node each
_MOST: Final = 4096  # remembered requests
_FEW: Final = 64  # changes that are cheaper to follow than any scan
_AS_CHEAP: Final = 8  # nodes scanned in the time of following one change

_Judge = Callable[[PlacementRequest, "Slots | None"], Words]


class _Refusal:
    """One remembered request.

    Attributes:
        word: word of every slot.
        counts: how many slots have each word.
        seen: changes of nodes that are accounted for.
    """

    __slots__ = ("counts", "explanation", "seen", "word")

    def __init__(self, word: Words, counts: Integers, seen: int, explanation: Explanation) -> None:
        self.word = word
        self.counts = counts
        self.seen = seen
        self.explanation = explanation


class Refusals:
    """Explains refusals and remembers them.

    Args:
        columns: the nodes.
        ids: node by slot.
        judge: returns the words of a request for some slots, None for all.
    """

    def __init__(self, columns: Columns, ids: list[NodeId], judge: _Judge) -> None:
        self._columns = columns
        self._ids = ids
        self._judge = judge
        self._known: dict[PlacementRequest, _Refusal] = {}
        self._changes: list[int] = []  # slots that changed, oldest first; positions count from _forgotten
        self._forgotten = 0

    def changed(self, slot: int) -> None:
        """Notes that a node changed."""
        if not self._known:
            return
        self._changes.append(slot)
        if len(self._changes) > _FEW + self._columns.size:
            self._forgotten += len(self._changes)
            self._changes.clear()

    def known(self, request: PlacementRequest) -> Explanation | None:
        """Returns the explanation of a request that was refused before and still is, else None."""
        refusal = self._known.get(request) if self._known else None
        if refusal is None:
            return None
        if not self._catch_up(request, refusal):
            del self._known[request]
            return None
        return refusal.explanation

    def explain(self, request: PlacementRequest) -> Explanation:
        """Returns where the request stands with every node, and remembers it when none fits."""
        known = self.known(request)
        if known is not None:
            return known
        word = self._judge(request, None)
        counts = np.bincount(word, minlength=WORDS)
        explanation = self._explanation(request, word, counts)
        if explanation.nodes and not explanation.fits:
            room = max(8, min(_MOST, _MEMORY_BYTES // (2 * len(word))))
            while len(self._known) >= room:
                del self._known[next(iter(self._known))]  # the one remembered longest: dictionaries keep that order
            seen = self._forgotten + len(self._changes)
            self._known[request] = _Refusal(word, counts, seen, explanation)
        return explanation

    def _catch_up(self, request: PlacementRequest, refusal: _Refusal) -> bool:
        """Accounts for the nodes that changed since; returns whether the request is still refused."""
        now = self._forgotten + len(self._changes)
        if refusal.seen == now:
            return True
        cheap = now - refusal.seen <= _FEW + len(refusal.word) // _AS_CHEAP
        if not cheap or refusal.seen < self._forgotten or self._columns.size != len(refusal.word):
            return False  # a fresh look costs less
        slots = np.fromiter(set(self._changes[refusal.seen - self._forgotten :]), np.int64)
        before, after = refusal.word[slots], self._judge(request, slots)
        if not after.all():
            return False
        refusal.seen = now
        refusal.word[slots] = after
        refusal.counts -= np.bincount(before, minlength=WORDS)
        refusal.counts += np.bincount(after, minlength=WORDS)
        # Only nodes that a single filter keeps away matter to the advice, and only counts to the rest.
        if bool(((before & (before - 1)) == 0).any() or ((after & (after - 1)) == 0).any() or (before != after).any()):
            refusal.explanation = self._explanation(request, refusal.word, refusal.counts)
        return True

    def _explanation(self, request: PlacementRequest, word: Words, counts: Integers) -> Explanation:
        refused = dict.fromkeys((known.bit for known in FILTERS), 0)
        for met in np.flatnonzero(counts).tolist():
            blamed = met & -met
            if blamed > ABSENT:
                refused[blamed] += int(counts[met])
        fits = int(counts[0])
        suggestion, change = ("", None) if fits else advise(self._columns, self._ids, request, word, counts)
        return Explanation(
            nodes=fits + sum(refused.values()),
            refusals=tuple(
                FilterRefusal(filter=known.name, nodes=refused[known.bit], reason=known.reason(request))
                for known in FILTERS
                if refused[known.bit]
            ),
            suggestion=suggestion,
            fits=fits,
            change=change,
        )
