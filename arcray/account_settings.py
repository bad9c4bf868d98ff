"""Settings about accounts: what they may hold, and what their work costs. Part of the tree in ``config``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LedgerSettings", "PriceSettings", "QuotaSettings"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QuotaSettings(_Section):
    """What an account may hold at a time that no operator gave a quota of its own; None is no limit.

    Args:
        cpu: cores.
        pending: workloads waiting for a place.
    """

    workloads: int | None = Field(default=None, ge=0)
    cpu: float | None = Field(default=None, ge=0)
    memory_mb: int | None = Field(default=None, ge=0)
    gpus: int | None = Field(default=None, ge=0)
    pending: int | None = Field(default=None, ge=1)


class PriceSettings(_Section):
    """What work costs, in credits; all 0: nothing costs anything, and nothing is posted.

    Args:
        cpu_core_minute, gpu_minute, gib_minute: for what a workload asked of its node, for each minute that it runs; a
            share of a GPU costs its part of the device's memory, and the sum is rounded up to a whole credit.
        workload: once, for a workload that ran.
        inference: for an inference request that was answered.
    """

    cpu_core_minute: int = Field(default=0, ge=0, le=10**9)
    gpu_minute: int = Field(default=0, ge=0, le=10**9)
    gib_minute: int = Field(default=0, ge=0, le=10**9)
    workload: int = Field(default=0, ge=0, le=10**9)
    inference: int = Field(default=0, ge=0, le=10**9)


class LedgerSettings(_Section):
    """Accounts and credits.

    Args:
        prices: what work costs.
        period_s: for how long ahead credits are set aside, and how often what was used is settled.
        operator_account: who is paid for what runs on the pool's own nodes.
        owner_share_percent: what the owner of a node gets of what work on it pays; the operator gets the rest.
    """

    prices: PriceSettings = PriceSettings()
    period_s: float = Field(default=60.0, ge=1, le=86_400)
    operator_account: str = Field(default="operator", min_length=1, max_length=128, pattern=r"^[^@/\s][^/\s]*$")
    owner_share_percent: int = Field(default=100, ge=0, le=100)
