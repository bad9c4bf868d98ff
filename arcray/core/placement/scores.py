"""Scores: which of the nodes that fit is taken. The policy, in one screen.

Every score is "less is better" and they are compared in the order of ``POLICY``; the node id breaks the last tie.

1. ``opens_idle_gpu``: a share goes to a GPU that is shared already, before it breaks an idle one.
2. ``tier``: the node of the lowest tier; those that are trusted less, or cost more, are for what fits nowhere else.
3. ``idle_gpus``: the node with the fewest idle GPUs. Four GPUs go to the node with four and not to the one with eight;
   work without GPUs stays off the nodes that have some to give.
4. ``has_gpus``: among nodes without an idle GPU, one that never had any: the CPU beside GPUs is for who shares them.
5. ``room``: the node with the least CPU and memory left, so that large demands find empty nodes.

Scores 2 to 5 look at the node alone: minimising what is left after the demand and minimising what is free before it
choose the same node. That is what makes a sorted index possible (``order.py``), and why ``room`` is a sum with one
fixed exchange rate and not, say, a ratio that would depend on the demand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from arcray.core.ids import NodeId
from arcray.core.resources import Demand

__all__ = [
    "POLICY",
    "Offer",
    "Standing",
    "has_gpus",
    "idle_gpus",
    "name_of",
    "opens_idle_gpu",
    "room",
    "standing",
    "tier",
]

Standing: TypeAlias = bytes  # a node's place in the order of the scores that depend on it alone

BYTES_PER_MILLI_CPU: Final = 4 << 20  # one core weighs as much as 3.9 GiB, what general-purpose machines pair it with
_ROOM_BITS: Final = 96  # room needs 76 bits at the largest quantities; the scores before it stand above them
_GPU_BITS: Final = 64  # no machine has as many GPUs as that
_SCORE_BYTES: Final = (_ROOM_BITS + _GPU_BITS) // 8 + 2  # two for the tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A node that fits.

    Args:
        gpus: devices that it has.
        idle_gpus: devices that nobody uses.
        open_bytes: most memory left on a device that is already shared.
        tier: how far behind others it is taken.
    """

    cpu_milli: int
    memory_bytes: int
    gpus: int
    idle_gpus: int
    open_bytes: int
    tier: int = 0


def opens_idle_gpu(offer: Offer, demand: Demand) -> int:
    """1 when a share would break a GPU that is idle, for want of a shared one with room."""
    return int(demand.gpu_memory_bytes is not None and offer.open_bytes < demand.gpu_memory_bytes)


def tier(offer: Offer, _demand: Demand) -> int:
    """How far behind others it is taken."""
    return offer.tier


def idle_gpus(offer: Offer, _demand: Demand) -> int:
    """GPUs that nobody uses."""
    return offer.idle_gpus


def has_gpus(offer: Offer, _demand: Demand) -> int:
    """1 on a machine with GPUs."""
    return int(offer.gpus > 0)


def room(offer: Offer, _demand: Demand) -> int:
    """Free memory and CPU in one number."""
    return _room(offer.cpu_milli, offer.memory_bytes)


POLICY: Final[tuple[Callable[[Offer, Demand], int], ...]] = (opens_idle_gpu, tier, idle_gpus, has_gpus, room)


def standing(cpu_milli: int, memory_bytes: int, idle: int, gpus: int, *, tier: int, name: bytes) -> Standing:
    """Returns a sort key that compares like ``tier``, ``idle_gpus``, ``has_gpus``, ``room`` and ``name`` in turn.

    It is one string of bytes because a search compares a dozen of them: in half the time of pairs of a number and a
    text, and without a visit to each of those.

    Args:
        cpu_milli, memory_bytes, idle, gpus, tier: of a node that is not overcommitted; none is negative.
        name: see ``name_of``.
    """
    above = 2 * idle + (gpus > 0)
    if tier:
        above += tier << _GPU_BITS
    return ((above << _ROOM_BITS) + _room(cpu_milli, memory_bytes)).to_bytes(_SCORE_BYTES) + name


def name_of(node_id: NodeId) -> bytes:
    """Returns what compares like the node id."""
    return node_id.encode(errors="surrogatepass")


def _room(cpu_milli: int, memory_bytes: int) -> int:
    return memory_bytes + cpu_milli * BYTES_PER_MILLI_CPU
