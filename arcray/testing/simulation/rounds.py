"""Many seeds, and what to say of one that breaks a promise."""

from __future__ import annotations

from collections.abc import Iterable

from arcray.testing.simulation.build import Build
from arcray.testing.simulation.plan import draw_plan
from arcray.testing.simulation.stage import simulate

__all__ = ["broken_promises", "first_broken"]


def broken_promises(seeds: Iterable[int]) -> list[str]:
    """Returns a paragraph for every seed that breaks a promise: which one, and how to see it again."""
    return [
        f"seed {seed}: {failure}\n  again: python -m arcray.testing.simulation --seed {seed} --trace [--shrink]"
        for seed in seeds
        if (failure := simulate(draw_plan(seed)).failure)
    ]


def first_broken(build: Build, seeds: Iterable[int]) -> tuple[int, str] | None:
    """Returns the first seed under which these parts break a promise, and which; None when they keep all."""
    for seed in seeds:
        failure = simulate(draw_plan(seed), build).failure
        if failure:
            return seed, failure
    return None
