"""What work costs: prices of the pool, the tariff of one workload, and the meter that counts it.

What lives here: the arithmetic from time to credits. What does not: who pays whom and when (``handlers/charging``).
Everything is integers: a workload's price per minute is rounded up to a whole credit, and what an attempt costs is one
function of how long it has run, so the parts that are settled sum to the whole whenever they are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Final

from arcray.core.ids import AccountId
from arcray.core.quantity import CPU_MILLI, GIB, bounded
from arcray.core.resources import Demand, Gpu, GpuShare

__all__ = ["FREE", "Meter", "Prices", "Tariff", "minute_price"]

_MINUTE_S: Final = 60
_MOST: Final = 10**12  # credits a minute; a day of it stays exact everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The pool's prices in credits; 0 is free.

    Args:
        cpu_core_minute, gpu_minute, gib_minute: for what a workload asked of its node, for each minute that it runs. A
            share of a GPU costs its part of the device's memory.
        workload: once, for a workload that ran.
        inference: for an inference request that was answered.
    """

    cpu_core_minute: int = 0
    gpu_minute: int = 0
    gib_minute: int = 0
    workload: int = 0
    inference: int = 0


FREE: Final = Prices()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What one workload costs where its protocol has a price of its own.

    Args:
        start: credits, once it runs.
        minute: credits for each minute on a node that belongs to the pool.
        owned_minute: the same on a node that belongs to an account; None is ``minute``.
        step_s: time is charged in steps of this many seconds, each that has begun.

    Raises:
        InvalidArgumentError: a number is out of its range; names it.
    """

    start: int = 0
    minute: int = 0
    owned_minute: int | None = None
    step_s: int = 1

    def __post_init__(self) -> None:
        bounded(self.start, "tariff.start", high=_MOST)
        bounded(self.minute, "tariff.minute", high=_MOST)
        bounded(self.owned_minute or 0, "tariff.ownedMinute", high=_MOST)
        bounded(self.step_s, "tariff.stepS", low=1, high=86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What a priced workload has cost, and what is set aside for it.

    Args:
        rate: credits for each minute where it is placed; while it waits, the most that it may be.
        start: credits to be paid once it runs; 0 afterwards.
        step_s: time is charged in steps of this many seconds.
        held: set aside now.
        paid: in all, over all attempts.
        attempt_paid: part of ``paid`` that the present attempt has cost.
        since: when the present attempt began to run; None while it does not.
        until: what it costs up to here is paid or set aside; None while no time is counted.
        payee: account that owns its node; None while it is on none, or on the pool's own.
        entries: how many were made for it; they number their ids.
        closed: its account could not pay further, so nothing more is charged.
    """

    rate: int
    start: int = 0
    step_s: int = 1
    held: int = 0
    paid: int = 0
    attempt_paid: int = 0
    since: datetime | None = None
    until: datetime | None = None
    payee: AccountId | None = None
    entries: int = 0
    closed: bool = False

    def cost(self, ran: timedelta) -> int:
        """Returns what the present attempt costs after it has run that long."""
        step = timedelta(seconds=self.step_s)
        steps = -(-max(ran, timedelta()) // step)
        return self.start + -(-self.rate * steps * self.step_s // _MINUTE_S)


def minute_price(
    prices: Prices, demand: Demand, shares: Sequence[GpuShare] | None = None, devices: Sequence[Gpu] = ()
) -> int:
    """Returns credits for each minute, rounded up.

    Args:
        shares: the GPUs that it got; None, before it has any, counts each as a whole one.
        devices: the GPUs of its node.
    """
    price = Fraction(demand.cpu_milli * prices.cpu_core_minute, CPU_MILLI)
    price += Fraction(demand.memory_bytes * prices.gib_minute, GIB)
    if shares is None:
        price += demand.gpus * prices.gpu_minute
    elif prices.gpu_minute:
        memory_bytes = {device.index: device.memory_bytes for device in devices}
        parts = (1 if s.whole else Fraction(s.memory_bytes, memory_bytes[s.index]) for s in shares)
        price += prices.gpu_minute * sum(parts, Fraction())
    return ceil(price)
