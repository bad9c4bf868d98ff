"""Quotas: what one account may hold at a time and have waiting.

A workload over its account's quota is accepted and waits, as work does that no node has room for; one that exceeds the
quota by itself could never start and is refused. Placed work counts: containers, programs and copies of models; so
does what is kept for them, and what is left of reservations. A gang starts within its account's quota as a whole.
Inference requests hold slots of copies that are counted already. A share of a GPU counts as one GPU, because what a
quota keeps for others is the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from arcray.core.ids import AccountId
from arcray.core.quantity import CPU_MILLI, bounded
from arcray.core.resources import Allocation, Demand

__all__ = ["NO_QUOTA", "AccountQuota", "Excess", "Quota", "Usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits of one account; None is no limit.

    Args:
        workloads, cpu_milli, memory_bytes, gpus: held at a time.
        pending: workloads waiting for a place, 1 or more; those beyond it are refused.

    Raises:
        InvalidArgumentError: a limit is negative or too large; names it.
    """

    workloads: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    pending: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            limit = getattr(self, each.name)
            if limit is not None:
                bounded(limit, f"quota.{_WORDS[each.name]}", low=int(each.name == "pending"))


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountQuota:
    """The quota that an operator gave to one account, in place of the default."""

    account: AccountId
    quota: Quota


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """One limit that is in the way.

    Args:
        resource: ``workloads``, ``cpu``, ``memory`` or ``gpus``.
        held, asked, limit: in the resource's smallest unit.
    """

    resource: str
    held: int
    asked: int
    limit: int

    def __str__(self) -> str:
        held, asked, limit = (_shown(self.resource, value) for value in (self.held, self.asked, self.limit))
        return f"holds {held} of {limit} {self.resource} and this asks for {asked}"


@dataclass(slots=True)
class Usage:
    """What an account holds now."""

    workloads: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    def take(self, held: Demand | Allocation, sign: int = 1) -> None:
        """Adds the demand of one workload, or a slice that none runs in; takes it off with ``sign`` -1."""
        if isinstance(held, Demand):
            self.workloads += sign
            self.gpus += sign * held.gpus
        else:
            self.gpus += sign * len(held.gpus)
        self.cpu_milli += sign * held.cpu_milli
        self.memory_bytes += sign * held.memory_bytes

    def excesses(self, asked: Usage, quota: Quota) -> Iterator[Excess]:
        """Yields the limits that would be exceeded if that much more were held."""
        for resource, held, more, limit in (
            ("workloads", self.workloads, asked.workloads, quota.workloads),
            ("cpu", self.cpu_milli, asked.cpu_milli, quota.cpu_milli),
            ("memory", self.memory_bytes, asked.memory_bytes, quota.memory_bytes),
            ("gpus", self.gpus, asked.gpus, quota.gpus),
        ):
            if limit is not None and more and held + more > limit:
                yield Excess(resource=resource, held=held, asked=more, limit=limit)


_WORDS = {
    "workloads": "workloads",
    "cpu_milli": "cpu",
    "memory_bytes": "memory",
    "gpus": "gpus",
    "pending": "pending",
}


def _shown(resource: str, value: int) -> str:
    match resource:
        case "cpu":
            return f"{value / CPU_MILLI:g}"
        case "memory":
            return f"{value / 2**20:g} MiB"
        case _:
            return str(value)
