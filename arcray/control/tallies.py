"""Tallies: how many workloads of each account, kind and phase there are, kept by the writer.

A list says how many it shows in all, and counting a million rows for every page would cost as much as the page is
cheap. Each transaction that writes workloads also writes by how much it changes these few numbers, so they are exact
whenever the rows are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

from arcray.control.rows import Row, column
from arcray.core.ids import AccountId
from arcray.core.workload import PayloadKind, Phase, Workload, kind_of

__all__ = ["Deltas", "changes", "tally_rows"]

Deltas: TypeAlias = "Counter[tuple[AccountId, PayloadKind, Phase]]"


def changes(pairs: Iterable[tuple[Workload | None, Workload | None]]) -> Deltas:
    """Returns by how much the numbers change when workloads become what they are now.

    Args:
        pairs: each workload before and after; None where it is not stored.
    """
    deltas: Deltas = Counter()
    for before, after in pairs:
        if before is not None:
            deltas[_place(before)] -= 1
        if after is not None:
            deltas[_place(after)] += 1
    return deltas


def tally_rows(deltas: Deltas) -> list[Row]:
    """Returns what a transaction writes for them."""
    return [
        {"account": column(account), "kind": kind.value, "phase": phase.value, "workloads": number}
        for (account, kind, phase), number in deltas.items()
        if number
    ]


def _place(workload: Workload) -> tuple[AccountId, PayloadKind, Phase]:
    spec = workload.spec
    return spec.origin.account, kind_of(spec.payload), workload.phase
