"""Runs one seed again, or looks for one that breaks a promise.

python -m arcray.testing.simulation --seed 17 --trace
python -m arcray.testing.simulation --from 1000 --count 500
"""

from __future__ import annotations

import argparse
import sys

from arcray.testing.simulation.plan import draw_plan
from arcray.testing.simulation.rounds import broken_promises
from arcray.testing.simulation.shrink import shrink
from arcray.testing.simulation.stage import simulate


def main() -> int:
    """Returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m arcray.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the one seed to run")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--shrink", action="store_true", help="look for the fewest steps that still break a promise")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first of many seeds")
    parser.add_argument("--count", type=int, default=100, help="how many seeds")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return _one(chosen.seed, trace=chosen.trace, smaller=chosen.shrink)
    return _many(range(chosen.first, chosen.first + chosen.count))


def _one(seed: int, *, trace: bool, smaller: bool) -> int:
    plan = draw_plan(seed)
    verdict = simulate(plan, trace=trace and not smaller)
    if verdict.failure and smaller:
        plan = shrink(plan, lambda part: bool(simulate(part).failure))
        verdict = simulate(plan, trace=trace)
        _say(f"{len(plan.steps)} steps are enough:")
        for step in plan.steps:
            _say(str(step))
    for line in verdict.lines:
        _say(line)
    _say(f"seed {seed}: {verdict.facts} facts, {verdict.runs} runs, {verdict.took_s:.0f} virtual s, {verdict.digest}")
    _say(f"BROKEN: {verdict.failure}" if verdict.failure else "every promise was kept")
    return bool(verdict.failure)


def _many(seeds: range) -> int:
    broken = broken_promises(seeds)
    for paragraph in broken:
        _say(paragraph)
    _say(f"{len(seeds)} seeds, {len(broken)} broke a promise")
    return bool(broken)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
