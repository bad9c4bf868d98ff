"""Reports of benchmarks: alternating pairs, medians with quartiles, a table with budgets.

A figure alone says little on a machine that does other things too. Each round therefore measures ours and the bare
thing one right after the other, in changing order, so that both meet the same weather; the median of the rounds is
reported with its quartiles, and the ratio is the median of the rounds' ratios. ``make bench`` ends with one table of
every figure that ``check`` was given.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

__all__ = ["RECORDED", "ROUNDS", "BenchRow", "alternate", "check", "in_turn", "row", "table"]

ROUNDS: Final = 5

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One figure.

    Args:
        value: median of the rounds.
        budget: None where none is set.
        better: which direction is better.
        quartiles: first and third, of the rounds' values.
        baseline: median of the bare thing in the same unit; None without one.
        ratio: median of ours / bare over the rounds; None without a baseline.
    """

    name: str
    value: float
    unit: str
    budget: float | None
    better: Literal["higher", "lower"]
    quartiles: tuple[float, float]
    baseline: float | None = None
    ratio: float | None = None

    @property
    def met(self) -> bool:
        """Whether the budget is met; a figure without one always is."""
        if self.budget is None:
            return True
        return self.value >= self.budget if self.better == "higher" else self.value <= self.budget


RECORDED: Final[list[BenchRow]] = []
"""Every figure of this run, in the order measured."""


def check(rows: Sequence[BenchRow]) -> None:
    """Prints figures, keeps them for the table of the whole run, and fails when one is short of its budget."""
    RECORDED.extend(rows)
    print(f"\n{table(rows)}")
    assert [each.name for each in rows if not each.met] == []


async def in_turn(
    ours: Callable[[], Awaitable[_T]], bare: Callable[[], Awaitable[_T]], rounds: int = ROUNDS
) -> tuple[list[_T], list[_T]]:
    """As ``alternate``, for what is measured on the event loop of the test."""
    found: tuple[list[_T], list[_T]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found[which].append(await (ours, bare)[which]())
    return found


def alternate(
    ours: Callable[[], float], bare: Callable[[], float], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    """Runs both once per round, in changing order, and returns what each measured."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found[which].append((ours, bare)[which]())
    return found


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    better: Literal["higher", "lower"],
    budget: float | None = None,
    bare: Sequence[float] | None = None,
) -> BenchRow:
    """Returns the figure of some rounds; ``bare`` has the bare thing's value of each round."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    ratios = None if bare is None else [mine / alone for mine, alone in zip(values, bare, strict=True)]
    return BenchRow(
        name=name,
        value=median,
        unit=unit,
        budget=budget,
        better=better,
        quartiles=(first, third),
        baseline=None if bare is None else statistics.median(bare),
        ratio=None if ratios is None else statistics.median(ratios),
    )


def table(rows: Sequence[BenchRow]) -> str:
    """Returns the rows as text, one line each."""
    heads = ("figure", "median", "quartiles", "unit", "budget", "", "bare", "ratio")
    lines = [heads, *(_cells(each) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in {0, 3, 5} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(each: BenchRow) -> tuple[str, ...]:
    low, high = each.quartiles
    limit = "at least" if each.better == "higher" else "at most"
    return (
        each.name,
        _number(each.value),
        f"{_number(low)} to {_number(high)}",
        each.unit,
        "" if each.budget is None else f"{limit} {_number(each.budget)}",
        "" if each.budget is None else "ok" if each.met else "SHORT",
        "" if each.baseline is None else _number(each.baseline),
        "" if each.ratio is None else f"{each.ratio:.2f}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
