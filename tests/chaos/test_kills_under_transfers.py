"""The scheduler is killed while users of HiveMind give credits to each other, all at once over gRPC.

``tests/cluster/test_survival_of_kills.py`` does the same to the real actor and the real gateway.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from arcray.config import Settings
from arcray.testing.mortal_scheduler import MortalScheduler, Nursery, nursery
from arcray.testing.scheduler_process import Kill, KillPoint
from tests.chaos.mortal_gateway import a_gateway
from tests.chaos.planted import PLANTED
from tests.chaos.transfer_round import TransferRound
from tests.hivemind_examples import compiled_client
from tests.rounds import LookedAt, rounds

TRANSFERS = rounds(100, 1000)
FOUND_WITHIN = 20
SHOWN_BY_DEATHS = ("FORGETS_IDS", "ANSWERS_TOO_SOON")
LONGEST_LIFE_S = 0.5


class Stage:
    """What rounds are played with, one after the other: what takes a second to start is kept.

    Args:
        client: directory of the compiled client.
    """

    def __init__(self, runner: asyncio.Runner, schedulers: Nursery, client: Path) -> None:
        self._runner = runner
        self._schedulers = schedulers
        self._client = client

    def play(self, seed: int, state: Path, number: int, build: str = "") -> dict[str, int]:
        """Plays a round; returns how much was looked at.

        Raises:
            AssertionError: a promise was broken.
        """
        return self._runner.run(self._play(random.Random(seed), state, number, build))

    async def _play(self, dice: random.Random, state: Path, number: int, build: str) -> dict[str, int]:
        settings = Settings.model_validate({"state_dir": state, "hivemind": {"token_key": "k" * 32}})
        kills = drawn_kills(dice, number)
        print("kills:", *kills)
        async with (
            asyncio.timeout(100),
            MortalScheduler(self._schedulers, settings, build, longest_life_s=LONGEST_LIFE_S) as scheduler,
            a_gateway(scheduler, settings) as address,
        ):
            await scheduler.live(())
            transfers = TransferRound(dice, address, self._client, number)
            await transfers.open()
            await scheduler.end()
            await transfers.run(scheduler, kills)
        transfers.check(state / "arcray.db")
        return {"kill_rounds_of_transfers": 1, "deaths": scheduler.deaths, **transfers.figures}


def drawn_kills(dice: random.Random, number: int) -> Sequence[Kill]:
    """One or two deaths while so many transfers are under way, at any time or aimed.

    What the first leaves unanswered is asked again in a few frames, so the second comes soon.
    """
    frames = 1 + number // 40
    kills = [_drawn_kill(dice, frames=frames, ms=25 + number // 10)]
    if dice.random() < 0.5:
        kills.append(_drawn_kill(dice, frames=1 + frames // 8, ms=25))
    return kills


def _drawn_kill(dice: random.Random, *, frames: int, ms: int) -> Kill:
    match point := dice.choice(list(KillPoint)):
        case KillPoint.TIME:
            return Kill(point=point, count=dice.randint(10, ms))
        case KillPoint.STEP:  # a start takes 28, a commit 10
            return Kill(point=point, count=dice.randint(28, 28 + 10 * frames))
        case _:
            return Kill(point=point, count=dice.randint(1, frames))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    client = tmp_path_factory.mktemp("client")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(compiled_client(client))
        schedulers = runner.run(stack.enter_async_context(nursery()))
        yield Stage(runner, schedulers, client)
        runner.run(stack.aclose())


@pytest.mark.chaos
@pytest.mark.rounds(3, 30)
def test_transfers_over_grpc_survive_kills(stage: Stage, tmp_path: Path, seed: int, looked_at: LookedAt) -> None:
    """Takes a second or two: passwords are hashed, a client process starts, and a scheduler dies once or twice."""
    looked_at(**stage.play(seed, tmp_path, TRANSFERS))


@pytest.mark.parametrize("name", [name for name, build in PLANTED.items() if build in SHOWN_BY_DEATHS])
def test_a_planted_bug_is_found(stage: Stage, tmp_path: Path, name: str) -> None:
    """The test of the test: each takes as many rounds as it needs, a few at the most."""
    for seed in range(1, FOUND_WITHIN + 1):
        state = tmp_path / str(seed)
        state.mkdir()
        try:
            stage.play(seed, state, TRANSFERS, f"tests.chaos.planted:{PLANTED[name]}")
        except AssertionError:
            return
    pytest.fail(f"{name}: not found in {FOUND_WITHIN} rounds")
