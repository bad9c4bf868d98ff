"""What the main job prints: parts as they run, then tables: what ran where, who paid whom, how long each part took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from arcray.cli.output import table

__all__ = ["Balance", "Report", "Row", "percentiles", "show_log"]


_REASONS = ("no: ", "not run: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that ran.

    Args:
        pid: of the process that did it, where it is known.
        ms: how long it took; the median where it was done many times.
    """

    work: str
    kind: str
    node: str = ""
    pid: int | None = None
    result: str
    ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Credits of one user before and after a part."""

    user: str
    before: int
    after: int


@dataclass(slots=True)
class Report:
    """What ran, who paid for it, and the seconds of each part.

    Args:
        matrix: for each way to submit work what came of it on each kind of machine.
    """

    rows: list[Row] = field(default_factory=list)
    balances: list[Balance] = field(default_factory=list)
    matrix: Sequence[Mapping[str, str]] = ()
    phases: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Says that a part runs, and times it."""
        print(f"- {name}", flush=True)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append((name, time.perf_counter() - began))

    def show(self) -> None:
        """Prints the tables."""
        _print(Row, self.rows)
        if self.balances:
            _print(Balance, self.balances)
        total = ("total", sum(seconds for _, seconds in self.phases))
        print(f"\n{table(['phase', 'seconds'], [*self.phases, total])}")
        if self.matrix:
            print(f"\n{_grid(self.matrix)}")


def _print(kind: type[Row | Balance], rows: Sequence[Row | Balance]) -> None:
    columns = [each.name for each in fields(kind)]
    print(f"\n{table(columns, [[getattr(row, column) for column in columns] for row in rows])}")


def _grid(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns a table whose longer reasons stand below it, each once."""
    notes: dict[str, int] = {}

    def short(value: str) -> str:
        if not value.startswith(_REASONS):
            return value
        return f"no [{notes.setdefault(value, len(notes) + 1)}]"

    shown = table(list(rows[0]), [[short(value) for value in row.values()] for row in rows])
    return "\n".join((shown, *(f"[{number}] {reason}" for reason, number in notes.items())))


def show_log(texts: Iterable[str]) -> None:
    """Prints what a workload prints, indented; a text may begin and end within a line."""
    begins = True
    for text in texts:
        for part in text.splitlines(keepends=True):
            print(f"    {part}" if begins else part, end="", flush=True)
            begins = part.endswith("\n")
    if not begins:
        print(flush=True)


def percentiles(values_ms: Sequence[float]) -> str:
    """Returns the median and the 99th percentile."""
    cuts = statistics.quantiles(values_ms, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
