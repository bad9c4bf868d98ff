"""The scheduler is killed at any moment, in a process of its own: what it acknowledged holds.

``tests/cluster/test_survival_of_kills.py`` does the same to the real actor, which Ray starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.chaos.kill_rounds import Played, play
from tests.chaos.planted import PLANTED
from tests.rounds import LookedAt

FOUND_WITHIN = 20


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two processes, because a round keeps two thirds of a core busy and waits for the rest."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as made:
        yield made
        made.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, pool: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Future[Played]]:
    """All rounds of this run, begun at once; the tests wait for theirs."""
    directory = tmp_path_factory.mktemp("kills")
    chosen = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    seeds = [call.params["seed"] for call in chosen if call is not None and "seed" in call.params]
    return {seed: pool.submit(play, seed, directory) for seed in seeds}


@pytest.mark.chaos
@pytest.mark.rounds(15, 450)
def test_what_was_acknowledged_survives_kills(
    played: dict[int, Future[Played]], seed: int, looked_at: LookedAt
) -> None:
    """Takes a second or two: one to three deaths under load, some of them while it starts or recovers."""
    round_ = played[seed].result()
    assert not round_.failure, round_.failure
    looked_at(**round_.figures)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(pool: ProcessPoolExecutor, tmp_path: Path, name: str) -> None:
    """The test of the test: each takes as many rounds as it needs, most of them one or two."""
    broken = partial(play, directory=tmp_path, build=f"tests.chaos.planted:{PLANTED[name]}")
    failures = (pool.submit(broken, seed).result().failure for seed in range(1, FOUND_WITHIN + 1))
    found = next((failure for failure in failures if failure), "")
    assert "kill_ledger" in found, found or f"{name}: not found in {FOUND_WITHIN} rounds"
