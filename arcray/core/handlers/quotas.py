"""Rules about quotas: who may hold how much, and which work waits for that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from arcray.core import events as ev
from arcray.core.commands import SetQuota
from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.core.gang_queue import gang_key
from arcray.core.ids import AccountId
from arcray.core.quota import NO_QUOTA, Excess, Quota, Usage
from arcray.core.resources import Demand
from arcray.core.state import ClusterState
from arcray.core.turn import Turn
from arcray.core.workload import Workload, WorkloadSpec

__all__ = ["check_one_more", "check_quota", "check_slices", "excesses", "on_set_quota"]

_NAME_LIMIT: Final = 256
_NOTHING: Final = Usage()


def on_set_quota(turn: Turn, command: SetQuota) -> None:
    """Gives an account a quota; the same again changes nothing. What is held already stays, however much it is."""
    if not 1 <= len(command.account) <= _NAME_LIMIT:
        raise InvalidArgumentError(f"must have 1 to {_NAME_LIMIT} characters", field="account")
    if turn.state.quotas.get(command.account) != command.quota:
        turn.emit(ev.QuotaChanged(account=command.account, quota=command.quota, at=turn.now))


def check_quota(state: ClusterState, spec: WorkloadSpec) -> None:
    """Refuses what could never start, and what is one too many in the queue.

    Raises:
        InvalidArgumentError: it exceeds its account's quota by itself, or its gang does; names the member that does.
        ResourceExhaustedError: the account has as many waiting as it may.
    """
    account = spec.origin.account
    quota = state.quota_of(account)
    if quota is NO_QUOTA:
        return
    alone = next(_NOTHING.excesses(_asked(state, spec), quota), None)
    if alone is not None:
        field = "account" if alone.resource == "workloads" else f"demand.{alone.resource}"
        raise InvalidArgumentError(f"could never start: account {account} {alone}", field=field)
    if quota.pending is not None and spec.gang is not None and spec.gang.size > quota.pending:
        raise InvalidArgumentError(
            f"could never start: account {account} may have {quota.pending} workloads waiting", field="gang.size"
        )
    if quota.pending is not None and state.waiting_of(account) >= quota.pending:
        raise ResourceExhaustedError(f"account {account} has {quota.pending} workloads waiting, which is its quota")


def excesses(state: ClusterState, workload: Workload) -> tuple[Excess, ...]:
    """Returns the limits of its account's quota that keep a pending workload from starting now."""
    account: AccountId = workload.spec.origin.account
    quota: Quota = state.quota_of(account)
    if quota is NO_QUOTA or _takes_over(state, workload):
        return ()
    return tuple(state.usage.get(account, _NOTHING).excesses(_asked(state, workload.spec), quota))


def check_slices(state: ClusterState, account: AccountId, demands: Iterable[Demand]) -> None:
    """Refuses to hold more for an account than its quota leaves.

    Raises:
        ResourceExhaustedError: says which limit is in the way.
    """
    asked = Usage()
    for demand in demands:
        asked.take(demand)
    asked.workloads = 0  # none runs yet
    short = next(state.usage.get(account, _NOTHING).excesses(asked, state.quota_of(account)), None)
    if short is not None:
        raise ResourceExhaustedError(f"account {account} {short}", field="slices")


def check_one_more(state: ClusterState, account: AccountId) -> None:
    """Refuses to start work in what its account holds already where it may have no more workloads.

    Raises:
        ResourceExhaustedError: it has as many as it may.
    """
    short = next(state.usage.get(account, _NOTHING).excesses(Usage(workloads=1), state.quota_of(account)), None)
    if short is not None:
        raise ResourceExhaustedError(f"account {account} {short}", field="reservationId")


def _asked(state: ClusterState, spec: WorkloadSpec) -> Usage:
    """Returns what must be free for it to start: its own demand, with those of the other members of its gang."""
    asked = Usage()
    asked.take(spec.demand)
    if spec.gang is not None:
        gang = state.gangs.get(gang_key(spec.origin.account, spec.gang))
        for workload_id in gang.members if gang is not None else ():
            if workload_id != spec.id:
                asked.take(state.workloads[workload_id].spec.demand)
        asked.workloads = spec.gang.size
    return asked


def _takes_over(state: ClusterState, workload: Workload) -> bool:
    # A copy that is loaded so that another one can end would otherwise wait for that end, which waits for it.
    return state.copies.replaced_by(workload) is not None
