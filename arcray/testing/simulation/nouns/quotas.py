"""Quotas: given to accounts, changed and taken away while work of theirs waits and runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from arcray.core import events as ev
from arcray.core.commands import Command, SetQuota
from arcray.core.ids import AccountId
from arcray.core.quantity import CPU_MILLI
from arcray.core.quota import Quota
from arcray.testing.simulation.nouns.cast import ACCOUNTS, Cast
from arcray.testing.simulation.promise import must

__all__ = ["QuotaFacts", "draw_quota"]


def draw_quota(dice: Random, cast: Cast) -> Command:
    """Returns a quota of an account, or that it has none of its own any more."""
    _ = cast
    account = dice.choice(ACCOUNTS)
    if dice.random() < 0.5:
        return SetQuota(account=account, quota=None)
    quota = Quota(
        workloads=dice.choice((None, 1, 3)),
        cpu_milli=dice.choice((None, 4 * CPU_MILLI)),
        gpus=dice.choice((None, 1, 2)),
        pending=dice.choice((None, None, 2)),
    )
    return SetQuota(account=account, quota=quota)


class QuotaFacts:
    """What is on disk of quotas.

    Attributes:
        known: by account; those without one of their own have no limit.
    """

    def __init__(self) -> None:
        self.known: dict[AccountId, Quota] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {ev.QuotaChanged: self._changed}

    def _changed(self, event: ev.QuotaChanged) -> None:
        must(self.known.get(event.account) != event.quota, f"the quota of {event.account} changes nothing")
        if event.quota is None:
            del self.known[event.account]
        else:
            self.known[event.account] = event.quota
