"""Seed to schedule: everything that people and bad luck do to a cluster, decided before anything runs.

A schedule is data: it can be printed, cut and run again. Each seed takes only some kinds of bad luck (a *swarm*), since
faults of every kind at once hide what two of them do together, and leaves others out entirely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, TypeAlias

from arcray.core.commands import Command
from arcray.core.node import LeaseTerms, NodeRegistration
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import (
    ExplainWorkload,
    GetAccount,
    GetReservation,
    GetStats,
    GetWorkload,
    ListNodes,
    ListReservations,
    ListWorkloads,
    Query,
)
from arcray.core.tariff import FREE, Prices
from arcray.testing.builders import a_capacity, a_node
from arcray.testing.simulation.happenings import (
    Ask,
    BreakDriver,
    ChangeWeather,
    CutOff,
    DiskAway,
    FailDisk,
    Happening,
    KillAgent,
    KillAtCommit,
    KillScheduler,
    Leave,
    Lie,
    Look,
    SetClock,
    SlowDisk,
    StopClock,
    TakeOver,
    words,
)
from arcray.testing.simulation.lies import LieKind
from arcray.testing.simulation.network import Weather
from arcray.testing.simulation.nouns.accounts import draw_credits, draw_login, draw_terms, draw_wealth
from arcray.testing.simulation.nouns.cast import ACCOUNTS, OWNER, Cast
from arcray.testing.simulation.nouns.gangs import draw_member
from arcray.testing.simulation.nouns.keys import draw_key
from arcray.testing.simulation.nouns.models import draw_model
from arcray.testing.simulation.nouns.nodes import draw_cordon, draw_drain, draw_labels
from arcray.testing.simulation.nouns.quotas import draw_quota
from arcray.testing.simulation.nouns.reservations import draw_reservation
from arcray.testing.simulation.nouns.submissions import draw_settlement, draw_stop, draw_submission

__all__ = ["Plan", "Step", "draw_plan"]

STEPS: Final = 90


@dataclass(frozen=True, slots=True)
class Step:
    """Something happens at a virtual time."""

    at_s: float
    what: Happening

    def __str__(self) -> str:
        return f"{self.at_s:10.4f}  {words(self.what)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A schedule.

    Args:
        seed: decides besides it what the network, the disk and the machines do.
        policy: the numbers that the scheduler's rules use, its prices among them.
        max_queued_orders: undelivered orders per node.
    """

    seed: int
    nodes: tuple[NodeRegistration, ...]
    policy: ClusterPolicy
    max_queued_orders: int
    steps: tuple[Step, ...]


def draw_plan(seed: int) -> Plan:
    """Returns the schedule of a seed: the same for the same seed, always."""
    dice = Random(f"plan {seed}")  # noqa: S311 - a simulation
    priced, preempts = dice.random() < 0.5, dice.random() < 0.5
    nodes = _draw_nodes(dice, dice.choice((2, 3, 4)), priced=priced)
    cast = Cast(nodes=nodes, priced=priced, reserves=dice.random() < 0.5, preempts=preempts)
    commands = [draw for draw, weight in _COMMANDS.items() for _ in range(weight)]
    if priced:
        commands += [draw for draw, weight in _OF_THE_LEDGER.items() for _ in range(weight)]
    if cast.reserves:
        commands += [draw for draw, weight in _OF_RESERVATIONS.items() for _ in range(weight)]
    if dice.random() < 0.5:
        commands += [draw for draw, weight in _OF_GANGS.items() for _ in range(weight)]
    luck = [draw for draw, weight in _BAD_LUCK.items() for _ in range(weight) if dice.random() < 0.75]
    unlucky = dice.choice((0.05, 0.15, 0.3))
    pace_s = dice.choice((0.1, 0.4, 1.0))
    steps = [Step(0.1, Ask(command, 1000)) for command in draw_wealth(dice, cast)] if priced else []
    at_s = 0.5
    while len(steps) < STEPS:
        at_s += dice.choice((0.0, 0.05, 1.0, 1.0, 4.0)) * dice.random() * pace_s
        cast.at_s = at_s
        if luck and dice.random() < unlucky:
            steps.append(Step(at_s, dice.choice(luck)(dice, cast)))
        elif (what := dice.choice(commands)(dice, cast)) is not None:
            steps.append(Step(at_s, what))
    return Plan(
        seed=seed,
        nodes=cast.nodes,
        policy=_draw_policy(dice, priced=priced),
        max_queued_orders=dice.choice((4, 1000)),
        steps=tuple(steps),
    )


def _draw_policy(dice: Random, *, priced: bool) -> ClusterPolicy:
    keep_finished = dice.choice((1, 4, 1000))
    prices = Prices(
        cpu_core_minute=dice.choice((0, 6, 7)),
        gpu_minute=dice.choice((0, 60, 95)),
        gib_minute=dice.choice((0, 1)),
        workload=dice.choice((0, 1, 5)),
        inference=dice.choice((0, 2)),
    )
    return ClusterPolicy(
        keep_finished=keep_finished,
        keep_finished_inference=keep_finished,
        keep_reservations=dice.choice((1, 1000)),
        inference_timeout=timedelta(seconds=5),
        preemption_grace=timedelta(seconds=dice.choice((0, 2, 30))),
        preemption_patience=timedelta(seconds=dice.choice((1, 60))),
        gang_timeout=timedelta(seconds=dice.choice((6, 30))),
        gang_patience=timedelta(seconds=dice.choice((0, 3, 60))),
        gang_hold=timedelta(seconds=dice.choice((5, 600))),
        prices=prices if priced else FREE,
        charge_period=timedelta(seconds=dice.choice((1, 4, 60))),
        owner_share_percent=dice.choice((0, 70, 100)),
    )


def _draw_nodes(dice: Random, count: int, *, priced: bool) -> tuple[NodeRegistration, ...]:
    lease = LeaseTerms(unhealthy_after_s=3.0, lost_after_s=9.0)
    return tuple(
        a_node(
            number,
            driver="simulated",
            lease=lease,
            capacity=a_capacity(cores=dice.choice((4, 8)), gpus=dice.choice((0, 1, 2, 2)), memory_gib=16),
            labels={"zone": "ab"[number % 2]},
            owner=dice.choice((None, OWNER, ACCOUNTS[0])) if priced else None,
        )
        for number in range(1, count + 1)
    )


# -- what is drawn ----------------------------------------------------------------------------------------------------

Draw: TypeAlias = Callable[[Random, Cast], "Happening | None"]


def _asked(draw: Callable[[Random, Cast], Command | None]) -> Draw:
    def ask(dice: Random, cast: Cast) -> Happening | None:
        command = draw(dice, cast)
        return None if command is None else Ask(command, dice.choice((1, 3, 1000)))

    return ask


def _look(dice: Random, cast: Cast) -> Happening:
    queries: list[Query] = [ListWorkloads(limit=200), ListNodes(), GetStats()]
    if cast.workloads:
        known = dice.choice(cast.workloads).id
        queries += [GetWorkload(workload_id=known), GetWorkload(workload_id=known), ExplainWorkload(workload_id=known)]
    return Look(dice.choice(queries))


def _look_at_account(dice: Random, cast: Cast) -> Happening:
    _ = cast
    return Look(GetAccount(account_id=dice.choice((*ACCOUNTS, OWNER))))


def _look_at_reservations(dice: Random, cast: Cast) -> Happening:
    queries: list[Query] = [ListReservations()]
    if cast.reservations:
        queries.append(GetReservation(reservation_id=dice.choice(cast.reservations).reservation_id))
    return Look(dice.choice(queries))


def _some(dice: Random, *seconds: float) -> float:
    return dice.choice(seconds) * (0.5 + dice.random() / 2)


_COMMANDS: Final[Mapping[Draw, int]] = {
    _asked(draw_submission): 10,
    _asked(draw_stop): 3,
    _asked(draw_cordon): 1,
    _asked(draw_drain): 1,
    _asked(draw_labels): 1,
    _asked(draw_quota): 1,
    _asked(draw_settlement): 1,
    _asked(draw_model): 2,
    _look: 5,
}

_OF_THE_LEDGER: Final[Mapping[Draw, int]] = {
    _asked(draw_credits): 4,
    _asked(draw_terms): 1,
    _asked(draw_login): 1,
    _asked(draw_key): 1,
    _look_at_account: 1,
}

_OF_RESERVATIONS: Final[Mapping[Draw, int]] = {
    _asked(draw_reservation): 4,
    _look_at_reservations: 1,
}

_OF_GANGS: Final[Mapping[Draw, int]] = {_asked(draw_member): 6}

_BAD_LUCK: Final[Mapping[Callable[[Random, Cast], Happening], int]] = {
    lambda dice, _: KillScheduler(_some(dice, 0.0, 0.5, 3.0, 12.0)): 3,
    lambda dice, _: KillAtCommit(dice.randrange(8), _some(dice, 0.0, 0.5, 3.0)): 3,
    lambda dice, cast: Lie(dice.choice(cast.nodes).id, dice.choice(tuple(LieKind)), dice.randrange(1000)): 3,
    lambda dice, _: TakeOver(_some(dice, 0.1, 2.0, 8.0)): 1,
    lambda dice, cast: KillAgent(dice.choice(cast.nodes).id, power=True, down_s=_some(dice, 0.0, 1.0, 15.0)): 2,
    lambda dice, cast: KillAgent(dice.choice(cast.nodes).id, power=False, down_s=_some(dice, 0.0, 1.0, 15.0)): 2,
    lambda dice, cast: CutOff(dice.choice(cast.nodes).id, _some(dice, 1.0, 5.0, 15.0)): 2,
    lambda dice, cast: Leave(dice.choice(cast.nodes).id, _some(dice, 0.1, 5.0)): 1,
    lambda dice, cast: BreakDriver(dice.choice(cast.nodes).id, _some(dice, 0.2, 3.0)): 1,
    lambda dice, _: FailDisk(dice.randrange(40)): 3,
    lambda dice, _: DiskAway(_some(dice, 0.2, 2.0, 10.0)): 1,
    lambda dice, _: SlowDisk(_some(dice, 0.1, 1.0, 60.0), _some(dice, 0.5, 5.0)): 2,
    lambda dice, _: SetClock(_some(dice, 0.5, 5.0, 60.0, 3600.0)): 1,
    lambda dice, _: SetClock(-_some(dice, 0.5, 5.0, 60.0, 3600.0)): 1,
    lambda dice, _: StopClock(_some(dice, 1.0, 10.0)): 1,
    lambda dice, _: ChangeWeather(
        Weather(
            lost=dice.choice((0.0, 0.02, 0.2)),
            doubled=dice.choice((0.0, 0.1, 0.4)),
            delay_s=dice.choice((0.01, 0.3, 2.0)),
        ),
        _some(dice, 2.0, 10.0),
    ): 3,
}
