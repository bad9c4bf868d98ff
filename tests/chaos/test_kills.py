"""The scheduler is killed at any moment, in a process of its own: what it acknowledged holds.

``tests/cluster/test_survival_of_kills.py`` does the same to the real actor, which Ray starts again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from arcray.config import Settings
from arcray.testing.mortal_scheduler import MortalScheduler, Nursery, nursery
from tests.chaos.kill_round import KillRound, drawn_kills

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.chaos]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def schedulers() -> AsyncIterator[Nursery]:
    """What schedulers are forked from."""
    async with nursery() as made:
        yield made


@pytest.mark.rounds(15, 450)
async def test_what_was_acknowledged_survives_kills(tmp_path: Path, schedulers: Nursery, seed: int) -> None:
    """Takes a second or two: one to three deaths under load, some of them while it starts or recovers."""
    dice = random.Random(seed)
    # Little is kept in memory, so that repetitions of what it has let go of are among what happens.
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path,
            "scheduler": {"keep_finished": 20, "keep_finished_inference": 20, "restart_backoff_s": 0.02},
            "inference": {"timeout_s": 10.0},
        }
    )
    async with asyncio.timeout(100), MortalScheduler(schedulers, settings) as scheduler:
        happening = KillRound(dice, scheduler, drawn_kills(dice), tmp_path)
        print("kills:", *happening.kills)
        await happening.run()
    happening.check(tmp_path / "arcray.db")
