"""What the main job prints: parts as they run, then tables of what ran where and how long each part took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from arcray.cli.output import table

__all__ = ["Report", "Row", "percentiles", "show_log"]


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


@dataclass(slots=True)
class Report:
    """What ran, and the seconds of each part."""

    rows: list[Row] = field(default_factory=list)
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
        columns = [each.name for each in fields(Row)]
        print(f"\n{table(columns, [[getattr(row, column) for column in columns] for row in self.rows])}")
        total = ("total", sum(seconds for _, seconds in self.phases))
        print(f"\n{table(['phase', 'seconds'], [*self.phases, total])}")


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
