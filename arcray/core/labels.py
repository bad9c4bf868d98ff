"""Labels of nodes and what work may ask of them: equality, and the set-based terms that Kubernetes has.

A *selector* is a list of terms that must all hold. Equality (``zone=eu``) is a plain pair; everything else is a
``LabelTerm``. As in Kubernetes a node without the key satisfies ``!=`` and ``notin``. Not taken over: ``Gt`` and
``Lt``, because sizes of machines are demands here, which placement has columns for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from arcray.core.errors import InvalidArgumentError

__all__ = ["LabelOperator", "LabelTerm", "Selector", "check_labels", "check_selector", "label_term", "parse_selector"]

_MOST_TERMS: Final = 64
_MOST_VALUES: Final = 64
_LONGEST: Final = 256
_WORD: Final = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
_KEY: Final = re.compile(_WORD)
_VALUE: Final = re.compile(rf"({_WORD})?")
_SET_TERM: Final = re.compile(r"(?P<key>[^\s!=(),]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_PAIR_TERM: Final = re.compile(r"(?P<key>[^\s!=(),]+)\s*(?P<operator>==|!=|=)\s*(?P<value>[^\s!=(),]*)")
_BARE_TERM: Final = re.compile(r"(?P<negated>!?)\s*(?P<key>[^\s!=(),]+)")


class LabelOperator(StrEnum):
    """What a term asks of the value of its key."""

    IN = "in"  # it is one of these
    NOT_IN = "notin"  # it is none of these, or the node has no such label
    EXISTS = "exists"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTerm:
    """One term besides equality.

    Args:
        values: sorted; () for ``exists`` and ``absent``.
    """

    key: str
    operator: LabelOperator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Returns whether a node with these labels satisfies it."""
        match self.operator:
            case LabelOperator.IN:
                return labels.get(self.key) in self.values
            case LabelOperator.NOT_IN:
                return labels.get(self.key) not in self.values
            case LabelOperator.EXISTS:
                return self.key in labels
            case LabelOperator.ABSENT:
                return self.key not in labels

    def __str__(self) -> str:
        match self.operator:
            case LabelOperator.EXISTS:
                return self.key
            case LabelOperator.ABSENT:
                return f"!{self.key}"
            case LabelOperator.NOT_IN if len(self.values) == 1:
                return f"{self.key}!={self.values[0]}"
            case _:
                return f"{self.key} {self.operator} ({','.join(self.values)})"


Selector: TypeAlias = tuple[tuple[str, str] | LabelTerm, ...]
"""Terms that must all hold, as placement takes them."""


def label_term(term: tuple[str, str] | LabelTerm) -> str:
    """Returns a term as it is written."""
    return str(term) if isinstance(term, LabelTerm) else f"{term[0]}={term[1]}"


def parse_selector(text: str, field: str = "selector") -> tuple[tuple[tuple[str, str], ...], tuple[LabelTerm, ...]]:
    """Reads ``zone=eu,disk!=slow,gpu,!spot,rack in (a,b),rack notin (c)``.

    Returns:
        The equalities and the other terms, each sorted, so that equal selectors compare equal.

    Raises:
        InvalidArgumentError: a term is none of these; names ``field`` and quotes it.
    """
    pairs: set[tuple[str, str]] = set()
    terms: set[LabelTerm] = set()
    rest = text.strip()
    while rest:
        found = _SET_TERM.match(rest) or _PAIR_TERM.match(rest) or _BARE_TERM.match(rest)
        if found is None:
            raise InvalidArgumentError(f"cannot read {rest[:_LONGEST]!r}", field=field)
        _take(found, pairs, terms, field)
        rest = rest[found.end() :].lstrip()
        if rest and not rest.startswith(","):
            raise InvalidArgumentError(f"wants a comma before {rest[:_LONGEST]!r}", field=field)
        if rest == ",":
            raise InvalidArgumentError("ends with a comma", field=field)
        rest = rest[1:].lstrip()
    if len(pairs) + len(terms) > _MOST_TERMS:
        raise InvalidArgumentError(f"may have {_MOST_TERMS} terms", field=field)
    return tuple(sorted(pairs)), tuple(sorted(terms, key=str))


def check_labels(labels: Mapping[str, str | None], field: str = "labels") -> None:
    """Checks keys and values that are about to become labels; None removes one.

    Raises:
        InvalidArgumentError: names the key.
    """
    for key, value in labels.items():
        _check(key, value or "", f"{field}.{key[:_LONGEST]}")


def check_selector(selector: Selector, field: str = "selector") -> None:
    """Checks what work asks of labels, however it was written: a term that no label can match waits for ever.

    Raises:
        InvalidArgumentError: names the key, or ``field``.
    """
    if len(selector) > _MOST_TERMS:
        raise InvalidArgumentError(f"may have {_MOST_TERMS} terms", field=field)
    for term in selector:
        key, values = (term.key, term.values) if isinstance(term, LabelTerm) else (term[0], term[1:])
        for value in values or ("",):
            _check(key, value, f"{field}.{key[:_LONGEST]}")


def _take(found: re.Match[str], pairs: set[tuple[str, str]], terms: set[LabelTerm], field: str) -> None:
    parts = found.groupdict()
    key = parts["key"]
    _check(key, parts.get("value") or "", field)
    if "values" in parts:
        values = tuple(sorted({value.strip() for value in parts["values"].split(",")}))
        if len(values) > _MOST_VALUES:
            raise InvalidArgumentError(f"{key} may have {_MOST_VALUES} values", field=field)
        for value in values:
            _check(key, value, field)
        terms.add(LabelTerm(key=key, operator=LabelOperator(parts["operator"]), values=values))
    elif "negated" in parts:
        operator = LabelOperator.ABSENT if parts["negated"] else LabelOperator.EXISTS
        terms.add(LabelTerm(key=key, operator=operator))
    elif parts["operator"] == "!=":
        terms.add(LabelTerm(key=key, operator=LabelOperator.NOT_IN, values=(parts["value"],)))
    else:
        pairs.add((key, parts["value"]))


def _check(key: str, value: str, field: str) -> None:
    if len(key) > _LONGEST or not _KEY.fullmatch(key):
        raise InvalidArgumentError(f"{key[:_LONGEST]!r} is no key of a label", field=field)
    if len(value) > _LONGEST or not _VALUE.fullmatch(value):
        raise InvalidArgumentError(f"{value[:_LONGEST]!r} is no value of a label", field=field)
