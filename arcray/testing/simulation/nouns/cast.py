"""Who and what random commands may speak of: what the plan has named so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Final

from arcray.core.commands import IssueCredits, Reserve, TransferCredits
from arcray.core.ids import AccountId
from arcray.core.keys import ApiKey
from arcray.core.model import Model
from arcray.core.node import NodeRegistration
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.resources import Demand
from arcray.core.workload import WorkloadSpec
from arcray.testing.builders import T0

__all__ = ["ACCOUNTS", "OWNER", "Cast", "draw_demand"]

ACCOUNTS: Final = (AccountId("ada"), AccountId("bob"))
OWNER: Final = AccountId("olga")  # of nodes; submits nothing
_SKEW_S: Final = 5.0  # clocks of clients differ from the scheduler's by no more than this at the start


@dataclass(slots=True, kw_only=True)
class Cast:
    """What has been named so far.

    Args:
        priced: whether work costs something.
        reserves: whether reservations are made.
        preempts: whether some work may be ended for other work.
        at_s: virtual time of the command that is drawn now.
        entries: how many entry ids were given out.
        members: of the gang that is coming, those that have not come.
        gangs: how many there were.
    """

    nodes: tuple[NodeRegistration, ...]
    priced: bool = False
    reserves: bool = False
    preempts: bool = False
    at_s: float = 0.0
    workloads: list[WorkloadSpec] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    credits: list[IssueCredits | TransferCredits] = field(default_factory=list)
    entries: int = 0
    keys: list[ApiKey] = field(default_factory=list)
    reservations: list[Reserve] = field(default_factory=list)
    members: list[WorkloadSpec] = field(default_factory=list)
    gangs: int = 0

    def client_time(self, dice: Random) -> datetime:
        """Returns what the clock of some client shows."""
        return T0 + timedelta(seconds=self.at_s + dice.uniform(-_SKEW_S, _SKEW_S))


def draw_demand(dice: Random) -> Demand:
    """Returns what work asks of one node, seldom what no node has."""
    if dice.random() < 0.04:
        return Demand(cpu_milli=1000 * CPU_MILLI)
    gpus = dice.choice((0, 0, 1, 1, 2))
    return Demand(
        cpu_milli=dice.choice((500, 1000, 4000)),
        memory_bytes=dice.choice((1, 2, 8)) * GIB,
        gpus=gpus,
        gpu_memory_bytes=dice.choice((None, 20 * GIB, 50 * GIB)) if gpus else None,
    )
