"""Settings to the numbers that the rules use, and what follows from them for those who wait for an answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from arcray.config import QuotaSettings, Settings
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import MIB, milli_cpu
from arcray.core.quota import NO_QUOTA, Quota
from arcray.core.tariff import Prices

__all__ = ["answer_s", "policy_of"]

_SCHEDULER_FIRST_S: Final = 10.0  # an answer of the scheduler, the reason of a failure with it, beats our giving up


def policy_of(settings: Settings) -> ClusterPolicy:
    """Returns the policy that the settings describe."""
    scheduler, inference, ledger = settings.scheduler, settings.inference, settings.ledger
    return ClusterPolicy(
        max_pending=scheduler.max_pending,
        max_waiting=inference.max_waiting,
        routing_patience=timedelta(milliseconds=sum(inference.backoff_ms)),
        inference_timeout=timedelta(seconds=inference.timeout_s),
        saturation=inference.saturation,
        stale_after=timedelta(seconds=inference.stale_after_s),
        score=settings.arcnet.score,
        keep_finished=scheduler.keep_finished,
        keep_finished_inference=scheduler.keep_finished_inference,
        restart_backoff=timedelta(seconds=scheduler.restart_backoff_s),
        restart_backoff_max=timedelta(seconds=scheduler.restart_backoff_max_s),
        round_batch=scheduler.round_batch,
        round_decisions=scheduler.round_decisions,
        restart_rest=timedelta(seconds=scheduler.restart_rest_s),
        max_duration=_optional_s(scheduler.max_duration_s),
        default_max_duration=_optional_s(scheduler.default_max_duration_s),
        overtime_grace=timedelta(seconds=scheduler.overtime_grace_s),
        default_quota=_quota(scheduler.quota),
        preemption_grace=timedelta(seconds=scheduler.preemption_grace_s),
        preemption_patience=timedelta(seconds=scheduler.preemption_patience_s),
        max_gang_size=scheduler.max_gang_size,
        gang_timeout=timedelta(seconds=scheduler.gang_timeout_s),
        gang_starts=scheduler.gang_starts,
        gang_patience=timedelta(seconds=scheduler.gang_patience_s),
        gang_hold=timedelta(seconds=scheduler.gang_hold_s),
        max_reservations=scheduler.max_reservations,
        max_reservation=timedelta(seconds=scheduler.max_reservation_s),
        keep_reservations=scheduler.keep_reservations,
        prices=Prices(**ledger.prices.model_dump()),
        charge_period=timedelta(seconds=ledger.period_s),
        operator_account=AccountId(ledger.operator_account),
        owner_share_percent=ledger.owner_share_percent,
    )


def answer_s(settings: Settings) -> float:
    """Returns how long a client waits for the answer to a command: a little more than one can take."""
    longest = policy_of(settings).longest_inference.total_seconds() + _SCHEDULER_FIRST_S
    return max(longest, settings.gateway.call_timeout_s)


def _optional_s(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _quota(quota: QuotaSettings) -> Quota:
    if quota == QuotaSettings():
        return NO_QUOTA
    return Quota(
        workloads=quota.workloads,
        cpu_milli=None if quota.cpu is None else milli_cpu(quota.cpu),
        memory_bytes=None if quota.memory_mb is None else quota.memory_mb * MIB,
        gpus=quota.gpus,
        pending=quota.pending,
    )
