"""Rules about budgets: what work costs, and whether its account may spend that.

An account may spend what it has available, and no more in one period than its limit says; what is set aside for live
work counts as spent. The error names which of both it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from arcray.core.errors import InsufficientCreditsError
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.core.state import ClusterState
from arcray.core.tariff import Meter, minute_price
from arcray.core.turn import Turn
from arcray.core.workload import Inference, WorkloadSpec

__all__ = ["budget", "check_credits", "check_reservable", "first_meter", "shortage"]


def check_credits(turn: Turn, spec: WorkloadSpec) -> None:
    """Refuses work that its account cannot pay for at the start.

    Raises:
        InsufficientCreditsError: too few credits (field ``credits``), or beyond its limit (``spendingLimit``).
    """
    meter = first_meter(turn.policy, spec)
    if meter is not None and meter.held:
        short = shortage(turn.state, spec.origin.account, meter.held, turn.now)
        if short is not None:
            raise short


def first_meter(policy: ClusterPolicy, spec: WorkloadSpec) -> Meter | None:
    """Returns the meter of work that is admitted: what is set aside covers its start and its first period.

    None where it costs nothing, wherever it may run.
    """
    own, prices = spec.tariff, policy.prices
    if isinstance(spec.payload, Inference):
        price = prices.inference if own is None else own.start
        return Meter(rate=0, start=price, held=price) if price else None
    if own is None:
        meter = _listed(policy, spec.demand)
        costs = any((meter.rate, meter.start))
    else:
        meter = Meter(rate=own.minute, start=own.start, step_s=own.step_s)
        costs = any((meter.rate, meter.start, own.owned_minute))
    if not costs:
        return None
    held = meter.cost(policy.charge_period)
    return Meter(rate=meter.rate, start=meter.start, step_s=meter.step_s, held=held)


def check_reservable(turn: Turn, account: AccountId, demands: Iterable[Demand]) -> None:
    """Refuses to hold places for an account that could not pay for starting work there. Nothing is set aside for it.

    Raises:
        InsufficientCreditsError: as ``check_credits``.
    """
    meters = [_listed(turn.policy, demand) for demand in demands]
    credits = sum(meter.cost(turn.policy.charge_period) for meter in meters)
    short = shortage(turn.state, account, credits, turn.now) if credits else None
    if short is not None:
        raise short


def _listed(policy: ClusterPolicy, demand: Demand) -> Meter:
    """Returns the meter of work at the prices of the cluster, with nothing set aside."""
    return Meter(rate=minute_price(policy.prices, demand), start=policy.prices.workload)


def shortage(
    state: ClusterState, account_id: AccountId, credits: int, now: datetime
) -> InsufficientCreditsError | None:
    """Returns why an account cannot have that many more credits set aside; None when it can."""
    account = state.books.accounts.get(account_id)
    if account is None:
        return InsufficientCreditsError(f"account {account_id} has no credits; this costs {credits}", field="credits")
    if account.spendable < credits:
        message = f"account {account_id} has {max(0, account.spendable)} credits; this costs {credits}"
        return InsufficientCreditsError(message, field="credits")
    left = account.left(now)
    if left is not None and left < credits:
        assert account.limit is not None
        message = (
            f"account {account_id} may spend {max(0, left)} more of {account.limit.credits} credits in this period "
            f"of {account.limit.period_s} s; this costs {credits}"
        )
        return InsufficientCreditsError(message, field="spendingLimit")
    return None


def budget(state: ClusterState, account_id: AccountId, now: datetime) -> int:
    """Returns how many credits an account can have set aside besides those that are."""
    account = state.books.accounts.get(account_id)
    if account is None:
        return 0
    left = account.left(now)
    return max(0, account.spendable if left is None else min(account.spendable, left))
