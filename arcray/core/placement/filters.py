"""Filters: why a node cannot take a request. Cheap and general ones first; the first that refuses is the reason given.

A node's *word* has one bit for each filter that refuses it, so 0 means that it fits, the lowest bit names the filter to
blame, and a word of a single bit is a node that one change would win over. Words are computed for columns of nodes at
once; a single node is a column of one, so that there is one implementation of each filter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcray.core.labels import label_term
from arcray.core.placement.columns import CPU, DISK, IDLE, MEMORY, SHARE, Columns, Slots
from arcray.core.placement.eligibility import Eligibility
from arcray.core.placement.request import PlacementRequest
from arcray.core.quantity import CPU_MILLI, MIB
from arcray.core.resources import Demand

__all__ = [
    "AVOIDED",
    "AWAY",
    "FILTERS",
    "FULL",
    "PINNED",
    "RESOURCES",
    "SELECTOR",
    "UNSCHEDULABLE",
    "WORDS",
    "Filter",
    "Need",
    "Words",
    "minima",
    "needs",
    "whole_mib",
    "words",
]

Words: TypeAlias = NDArray[np.uint16]

AWAY: Final = 1 << 1
UNSCHEDULABLE: Final = 1 << 2
PINNED: Final = 1 << 3
AVOIDED: Final = 1 << 4
FEATURES: Final = 1 << 5
SELECTOR: Final = 1 << 6
_CPU: Final = 1 << 7
_MEMORY: Final = 1 << 8
_DISK: Final = 1 << 9
_GPUS: Final = 1 << 10
FULL: Final = 1 << 11
RESOURCES: Final = np.uint16(_CPU | _MEMORY | _DISK | _GPUS | FULL)  # what other work can make room for
WORDS: Final = 1 << 12  # how many there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One filter.

    Args:
        bit: its bit in a word.
        reason: what it wants of a node, as a sentence fragment.
    """

    bit: int
    name: str
    reason: Callable[[PlacementRequest], str]


class Need(NamedTuple):
    """What a resource filter asks of a column.

    Args:
        bit: the filter's bit.
        row: the column's row.
        least: the smallest value that passes; 0 refuses only nodes that are overcommitted.
    """

    bit: int
    row: int
    least: int


def needs(demand: Demand) -> tuple[Need, Need, Need, Need]:
    """Returns a demand as least values of columns, in the order of the filters."""
    cpu, memory, disk, gpus = _least_values(demand)
    return Need(_CPU, *cpu), Need(_MEMORY, *memory), Need(_DISK, *disk), Need(_GPUS, *gpus)


def minima(demand: Demand) -> list[tuple[int, int]]:
    """Returns the (row, least value) pairs of ``needs`` that can refuse a node that is not overcommitted.

    Pairs, not named tuples, which take many times as long to make: four are made for every decision.
    """
    return [pair for pair in _least_values(demand) if pair[1]]


def _least_values(demand: Demand) -> tuple[tuple[int, int], ...]:
    share_bytes = demand.gpu_memory_bytes
    return (
        (CPU, demand.cpu_milli),
        (MEMORY, demand.memory_bytes),
        (DISK, demand.disk_bytes),
        # n shares of some size fit when the n-th emptiest shareable device has that much left.
        (IDLE, demand.gpus) if share_bytes is None else (SHARE + demand.gpus - 1, share_bytes),
    )


def words(
    columns: Columns,
    eligibility: Eligibility,
    request: PlacementRequest,
    *,
    pinned_slot: int | None,
    avoided_slots: Slots,
    slots: Slots | None = None,
) -> Words:
    """Returns the word of each of ``slots``; None: of every slot.

    Args:
        pinned_slot: slot of ``request.node_id``, -1 when no such node is here; None when it names none.
        avoided_slots: slots of the nodes in ``request.avoid`` that are here.
    """
    size = columns.size
    word = columns.status[:size].copy() if slots is None else columns.status.take(slots)
    if pinned_slot is not None:
        places = np.arange(size) if slots is None else slots
        _refuse(word, places != pinned_slot, PINNED)
    if len(avoided_slots):
        places = np.arange(size) if slots is None else slots
        _refuse(word, np.isin(places, avoided_slots), AVOIDED)
    if request.wants:
        _refuse(word, eligibility.lacks_features(request.wants, slots), FEATURES)
    if request.selector:
        _refuse(word, eligibility.lacks_labels(request.selector, slots), SELECTOR)
    for bit, row, least in needs(request.demand):
        column = columns.rows[row]
        _refuse(word, (column[:size] if slots is None else column.take(slots)) < least, bit)
    return word


def _cpu_reason(request: PlacementRequest) -> str:
    return f"needs {request.demand.cpu_milli / CPU_MILLI:g} free cores"


def _memory_reason(request: PlacementRequest) -> str:
    return f"needs {whole_mib(request.demand.memory_bytes)} MiB free memory"


def _disk_reason(request: PlacementRequest) -> str:
    return f"needs {whole_mib(request.demand.disk_bytes)} MiB free disk"


def _gpu_reason(request: PlacementRequest) -> str:
    demand = request.demand
    if not demand.gpus:
        return "has overcommitted GPUs"
    noun = "GPU" if demand.gpus == 1 else "GPUs"
    if demand.gpu_memory_bytes is None:
        return f"needs {demand.gpus} free {noun}"
    return f"needs {demand.gpus} {noun} with {whole_mib(demand.gpu_memory_bytes)} MiB free on each"


def _features_reason(request: PlacementRequest) -> str:
    return f"must offer {' or '.join(sorted(request.wants))}"


def _selector_reason(request: PlacementRequest) -> str:
    return f"must carry {', '.join(map(label_term, request.selector))}"


FILTERS: Final = (
    Filter(bit=AWAY, name="attached", reason=lambda _: "is unhealthy, lost or gone"),
    Filter(bit=UNSCHEDULABLE, name="schedulable", reason=lambda _: "is cordoned or draining"),
    Filter(bit=PINNED, name="pinned", reason=lambda request: f"only node {request.node_id} is allowed"),
    Filter(bit=AVOIDED, name="avoided", reason=lambda _: "is not to be used again"),
    Filter(bit=FEATURES, name="features", reason=_features_reason),
    Filter(bit=SELECTOR, name="selector", reason=_selector_reason),
    Filter(bit=_CPU, name="cpu", reason=_cpu_reason),
    Filter(bit=_MEMORY, name="memory", reason=_memory_reason),
    Filter(bit=_DISK, name="disk", reason=_disk_reason),
    Filter(bit=_GPUS, name="gpus", reason=_gpu_reason),
    Filter(bit=FULL, name="full", reason=lambda _: "has as many workloads as it takes"),
)


def whole_mib(size_bytes: int) -> int:
    """Returns bytes in MiB, rounded up."""
    return -(-size_bytes // MIB)


def _refuse(word: Words, refused: NDArray[np.bool_], bit: int) -> None:
    # A product is three times as fast as assigning through the mask.
    word |= refused * np.uint16(bit)
