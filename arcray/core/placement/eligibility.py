"""Eligibility: which nodes a request may go to whatever they have free, by features and by labels.

A *scope* is one pair of wanted features and selector that was asked for. A scope of few nodes keeps their slots, and a
request is decided by looking at each of them. Any other scope owns a *mark*, a bit in the ``marks`` column, so that
the sorted index can pass over blocks without a node of that scope; at most 62 scopes have one, and the longest unused
gives way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcray.core.labels import LabelOperator, LabelTerm, Selector
from arcray.core.placement.columns import ABSENT, Columns, Slots

__all__ = ["Eligibility", "Scope"]

_Bools: TypeAlias = NDArray[np.bool_]

_MARKS: Final = 62
_SCOPES: Final = 256
_FEW: Final = 256  # looking at this many nodes one by one costs about as much as a search with a mark
_NO_NODES: Final[frozenset[int]] = frozenset()


class Scope:
    """The nodes that offer one of ``wants`` and satisfy all of ``selector``.

    Attributes:
        slots: all of them when they are few, else None.
        mark: bit that they carry in the ``marks`` column when they are many, else 0.
        count: how many.
    """

    __slots__ = ("count", "mark", "selector", "slots", "used", "version", "wants")

    def __init__(self, wants: frozenset[str], selector: Selector) -> None:
        self.wants = wants
        self.selector = selector
        self.slots: Slots | None = None
        self.mark = 0
        self.count = 0
        self.version = -1
        self.used = 0


class Eligibility:
    """Keeps the ``groups`` and ``marks`` columns and answers who is eligible.

    Attributes:
        nodes: how many nodes there are.
    """

    def __init__(self, columns: Columns, on_marks: Callable[[], None]) -> None:
        self.nodes = 0
        self._columns = columns
        self._on_marks = on_marks  # called after the marks of many nodes changed
        self._groups: dict[frozenset[str], int] = {}
        self._carriers: dict[tuple[str, str], set[int]] = {}  # slots by label
        self._keyed: dict[str, set[int]] = {}  # slots by key of a label
        self._scopes: dict[tuple[frozenset[str], Selector], Scope] = {}
        self._marked: list[Scope] = []
        self._version = 0
        self._lookups = 0

    def admit(self, slot: int, features: frozenset[str], labels: Mapping[str, str]) -> None:
        """Takes up a node."""
        self.nodes += 1
        self._version += 1
        self._columns.groups[slot] = self._groups.setdefault(features, len(self._groups))
        for label in labels.items():
            self._carriers.setdefault(label, set()).add(slot)
            self._keyed.setdefault(label[0], set()).add(slot)
        marks = 0
        for scope in self._marked:
            if self._belongs(scope, slot, features):
                marks |= scope.mark
                scope.count += 1
        self._columns.marks[slot] = marks

    def dismiss(self, slot: int, labels: Mapping[str, str]) -> None:
        """Forgets a node."""
        self.nodes -= 1
        self._version += 1
        marks = int(self._columns.marks[slot])
        for scope in self._marked:
            scope.count -= bool(marks & scope.mark)
        self._columns.marks[slot] = 0
        for label in labels.items():
            carriers = self._carriers[label]
            carriers.discard(slot)
            if not carriers:
                del self._carriers[label]
            keyed = self._keyed[label[0]]
            keyed.discard(slot)
            if not keyed:
                del self._keyed[label[0]]

    def scope(self, wants: frozenset[str], selector: Selector) -> Scope:
        """Returns the scope of a request."""
        scope = self._scopes.get((wants, selector))
        if scope is None or (scope.slots is not None and scope.version != self._version):
            scope = self._measure(wants, selector)
        self._lookups += 1
        scope.used = self._lookups
        return scope

    def lacks_features(self, wants: frozenset[str], slots: Slots | None) -> _Bools:
        """Returns for each slot (None: all) whether its node offers none of ``wants``."""
        if not wants:
            return np.zeros(self._columns.size if slots is None else len(slots), np.bool_)
        lacks = np.fromiter((not wants & features for features in self._groups), np.bool_, len(self._groups))
        groups = self._columns.groups[: self._columns.size] if slots is None else self._columns.groups.take(slots)
        return lacks.take(groups) if len(lacks) else np.zeros(len(groups), np.bool_)

    def lacks_labels(self, selector: Selector, slots: Slots | None) -> _Bools:
        """Returns for each slot (None: all) whether its node fails a term of ``selector``."""
        lacks = np.zeros(self._columns.size if slots is None else len(slots), np.bool_)
        for term in selector:
            if slots is None:
                satisfies = np.zeros(len(lacks), np.bool_)
                for carriers in self._named(term):
                    satisfies[np.fromiter(carriers, np.int64, len(carriers))] = True
                if not _wants_named(term):
                    satisfies = ~satisfies
            else:
                satisfies = np.fromiter((self._satisfies(term, slot) for slot in slots.tolist()), np.bool_, len(slots))
            lacks |= ~satisfies
        return lacks

    def _named(self, term: tuple[str, str] | LabelTerm) -> list[AbstractSet[int]]:
        """Returns the slots that a term names, as one set for each of its values."""
        if not isinstance(term, LabelTerm):
            return [self._carriers.get(term, _NO_NODES)]
        if term.operator in (LabelOperator.EXISTS, LabelOperator.ABSENT):
            return [self._keyed.get(term.key, _NO_NODES)]
        return [self._carriers.get((term.key, value), _NO_NODES) for value in term.values]

    def _satisfies(self, term: tuple[str, str] | LabelTerm, slot: int) -> bool:
        return any(slot in carriers for carriers in self._named(term)) is _wants_named(term)

    def _belongs(self, scope: Scope, slot: int, features: frozenset[str]) -> bool:
        if scope.wants and not scope.wants & features:
            return False
        return all(self._satisfies(term, slot) for term in scope.selector)

    def _measure(self, wants: frozenset[str], selector: Selector) -> Scope:
        """Returns the scope with its slots or its mark as of now."""
        scope = self._scopes.get((wants, selector)) or Scope(wants, selector)
        slots = self._eligible(wants, selector)
        scope.count, scope.version = len(slots), self._version
        if len(slots) <= _FEW and len(slots) * 8 <= self.nodes:
            scope.slots = slots
        else:
            scope.slots = None
            self._mark(scope, slots)
        if (wants, selector) not in self._scopes and len(self._scopes) >= _SCOPES:
            self._forget(self._scopes.values())
        self._scopes[wants, selector] = scope
        return scope

    def _eligible(self, wants: frozenset[str], selector: Selector) -> Slots:
        columns = self._columns
        pairs = [term for term in selector if not isinstance(term, LabelTerm)]
        if not pairs:
            present = np.flatnonzero(columns.status[: columns.size] & ABSENT == 0)
        else:
            sets = sorted((self._carriers.get(label, _NO_NODES) for label in pairs), key=len)
            found = sets[0].intersection(*sets[1:])
            present = np.fromiter(found, np.int64, len(found))
        if len(pairs) < len(selector):
            present = present[~self.lacks_labels(selector, None)[present]]
        return present[~self.lacks_features(wants, present)]

    def _mark(self, scope: Scope, slots: Slots) -> None:
        if len(self._marked) == _MARKS:
            self._forget(self._marked)
        taken = sum(other.mark for other in self._marked)
        scope.mark = ~taken & (taken + 1)  # the lowest bit that is not taken
        self._marked.append(scope)
        self._columns.marks[slots] |= scope.mark
        self._on_marks()

    def _forget(self, scopes: Iterable[Scope]) -> None:
        """Drops the longest unused of some scopes."""
        oldest = min(scopes, key=lambda scope: scope.used)
        del self._scopes[oldest.wants, oldest.selector]
        if oldest.mark:
            self._marked.remove(oldest)
            self._columns.marks &= ~oldest.mark


def _wants_named(term: tuple[str, str] | LabelTerm) -> bool:
    """Whether a term wants the nodes that it names, rather than all others."""
    return not isinstance(term, LabelTerm) or term.operator in (LabelOperator.IN, LabelOperator.EXISTS)
