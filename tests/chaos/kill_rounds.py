"""Rounds of kills, each played from its seed in a process of a pool: one at a time would leave half of two cores idle.

A process of the pool keeps what takes a second to start, the nursery of its schedulers, from one round to the next.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from arcray.config import Settings
from arcray.testing.mortal_scheduler import MortalScheduler, Nursery, nursery
from arcray.testing.scheduler_process import Kill
from tests.chaos.kill_round import KillRound, drawn_kills

__all__ = ["Played", "play"]

_ROUND_S = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a round.

    Args:
        failure: "" when every promise was kept, else what a person needs to see.
        figures: how much was looked at, by what.
    """

    failure: str = ""
    figures: dict[str, int] = field(default_factory=dict)


def play(seed: int, directory: Path, build: str = "") -> Played:
    """Plays a round in a directory of its own, which stays when a promise was broken.

    Args:
        build: parts of the scheduler, as for ``MortalScheduler``.
    """
    dice = random.Random(seed)
    kills = drawn_kills(dice)
    state = directory / f"{build.rpartition(':')[2]}{seed}"
    state.mkdir()
    runner, schedulers, _ = _stage()
    try:
        figures = runner.run(_play(dice, kills, state, schedulers, build))
    except Exception:  # noqa: BLE001 - told as text, because not every exception survives the way between processes
        told = f"kills: {' '.join(map(str, kills))}; state: {state}\n{traceback.format_exc()}"
        return Played(failure=told)
    shutil.rmtree(state)
    return Played(figures=figures)


async def _play(
    dice: random.Random, kills: Sequence[Kill], state: Path, schedulers: Nursery, build: str
) -> dict[str, int]:
    # Little is kept in memory, so that repetitions of what it has let go of are among what happens.
    settings = Settings.model_validate(
        {
            "state_dir": state,
            "scheduler": {"keep_finished": 20, "keep_finished_inference": 20, "restart_backoff_s": 0.02},
            "inference": {"timeout_s": 10.0},
            "ledger": {"period_s": 1.0, "owner_share_percent": 70},
        }
    )
    async with asyncio.timeout(_ROUND_S), MortalScheduler(schedulers, settings, build) as scheduler:
        happening = KillRound(dice, scheduler, kills, state)
        await happening.run()
    happening.check(state / "arcray.db")
    return happening.figures


@cache
def _stage() -> tuple[asyncio.Runner, Nursery, AsyncExitStack]:
    """Returns what this process plays its rounds with. Its nursery ends when it does."""
    runner, stack = asyncio.Runner(), AsyncExitStack()
    return runner, runner.run(stack.enter_async_context(nursery())), stack
