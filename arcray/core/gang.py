"""A gang: workloads that start together or not at all.

Every member names the same gang, its size and its layout. The members are equal in account, priority and restart
policy; what each runs and asks of its node is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Gang", "Layout"]


class Layout(StrEnum):
    """How several slices lie on the nodes."""

    ANY = "any"  # wherever they fit
    PACK = "pack"  # all on one node
    SPREAD = "spread"  # each on a node of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """What a member says of its gang.

    Args:
        id: chosen by the sender, 1 to 128 characters, unique per account while any member is alive.
        size: members, at least 1; none starts before all are there.
    """

    id: str
    size: int
    layout: Layout = Layout.ANY
