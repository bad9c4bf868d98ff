"""The test of the test: the same seed is the same story, and a bug of each kind is found."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from arcray.testing.simulation.happenings import Look
from arcray.testing.simulation.plan import Plan, draw_plan
from arcray.testing.simulation.rounds import first_broken
from arcray.testing.simulation.shrink import shrink
from arcray.testing.simulation.stage import simulate
from tests.simulation.planted import PLANTED

FOUND_WITHIN = 100
FOUND_BY = {
    "a claim without end": 70,
    "a gang starts in part": 15,
    "a gang waits for ever": 15,
    "a key is good for two": 19,
    "a limit is not looked at": 31,
    "a reservation is granted twice": 15,
    "a revoked key is good": 22,
    "work beside what was given up": 82,
}
"""The seeds that found them lately, to begin with; when schedules are drawn otherwise, others will."""


@pytest.mark.timeout(900)  # as for the promises
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    """Each takes as many seeds as it needs, most of them one or two."""
    seeds = (FOUND_BY.get(name, 1), *range(1, FOUND_WITHIN + 1))
    assert first_broken(PLANTED[name], seeds), f"{name}: not found in {FOUND_WITHIN} seeds"


def test_a_seed_tells_the_same_story_again() -> None:
    once, again = (simulate(draw_plan(7), trace=True) for _ in range(2))
    assert once == again
    assert once.facts > 50
    assert once.runs > 5


def test_one_command_plays_a_seed_again_in_another_process() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "arcray.testing.simulation", "--seed", "7", "--trace"],
        env=os.environ | {"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verdict = simulate(draw_plan(7), trace=True)
    assert verdict.digest in told
    assert verdict.lines[-1] in told


def test_a_failing_schedule_is_cut_to_what_fails() -> None:
    plan = draw_plan(1)
    needed = [plan.steps[10], plan.steps[60]]

    def fails(part: Plan) -> bool:
        return all(step in part.steps for step in needed)

    assert list(shrink(plan, fails).steps) == needed


def test_a_cluster_without_bad_luck_and_work_comes_to_rest_at_once() -> None:
    plan = draw_plan(1)
    quiet = replace(plan, steps=tuple(step for step in plan.steps if isinstance(step.what, Look)))
    verdict = simulate(quiet)
    assert (verdict.failure, verdict.facts, verdict.runs) == ("", len(plan.nodes), 0)
