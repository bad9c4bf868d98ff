"""Advice: the smallest single change that would place a refused request.

Only nodes that one filter alone refuses are looked at. Asking for less of one resource has the size of the share given
up: 1 GiB less of 4 is a quarter. A change of conditions (uncordon a node, drop the pin, the exclusion or the selector)
has a fixed size, so it is advised before giving up more than half of anything. Equal sizes go by the filters' order.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np

from arcray.core.ids import NodeId
from arcray.core.placement.columns import CPU, DEVICES, IDLE, MEMORY, SHARE, Columns, Integers, Slots
from arcray.core.placement.explain import Change
from arcray.core.placement.filters import AVOIDED, PINNED, SELECTOR, UNSCHEDULABLE, Need, Words, needs, whole_mib
from arcray.core.placement.request import PlacementRequest
from arcray.core.quantity import CPU_MILLI
from arcray.core.resources import Demand

__all__ = ["advise"]

_CONDITION: Final = 0.5  # size of changing a condition
_CONDITIONS: Final = {UNSCHEDULABLE: "uncordon", PINNED: "pin", AVOIDED: "exclusion", SELECTOR: "selector"}
_Option: TypeAlias = tuple[float, str, Change | None]  # size, wording, value
_NOTHING: Final[_Option] = (2.0, "", None)  # larger than any change


def advise(
    columns: Columns, ids: list[NodeId], request: PlacementRequest, word: Words, counts: Integers
) -> tuple[str, Change | None]:
    """Returns the change as a sentence fragment and as a value; "" and None when no single change would do.

    Args:
        ids: node by slot.
        word: word of every slot.
        counts: how many slots have each word.
    """
    best = _NOTHING
    for bit in (UNSCHEDULABLE, PINNED, AVOIDED, SELECTOR):
        if counts[bit] and best[0] > _CONDITION:
            count = int(counts[bit])
            best = _CONDITION, _condition(bit, count, word, ids), Change(what=_CONDITIONS[bit], by=count)
    for need in needs(request.demand):
        if counts[need.bit]:
            option = _reduction(columns, request.demand, need, np.flatnonzero(word == need.bit))
            if option[0] < best[0]:
                best = option
    return best[1:]


def _condition(bit: int, count: int, word: Words, ids: list[NodeId]) -> str:
    nodes = f"{count} nodes" if count > 1 else f"node {ids[int((word == bit).argmax())]}"
    if bit == UNSCHEDULABLE:
        return f"uncordon one of {nodes}" if count > 1 else f"uncordon {nodes}"
    return f"without the {_CONDITIONS[bit]} {nodes} would fit"


def _reduction(columns: Columns, demand: Demand, need: Need, candidates: Slots) -> _Option:
    """Returns the size and the wording of asking for less, given the nodes that this need alone keeps away."""
    if need.row >= IDLE:
        return _fewer_gpus(columns, demand, need, candidates)
    missing = need.least - _most(columns, need.row, candidates)
    if missing > need.least or not need.least:
        return _NOTHING  # all of them are overcommitted
    if need.row == CPU:
        said, what = f"{missing / CPU_MILLI:g} cores less", "cpu"
    else:
        what = "memory" if need.row == MEMORY else "disk"
        said = f"{whole_mib(missing)} MiB less {what}"
    return missing / need.least, f"{said} would fit", Change(what=what, by=missing)


def _fewer_gpus(columns: Columns, demand: Demand, need: Need, candidates: Slots) -> _Option:
    """The same for GPUs: less memory on each, fewer of them, or as many once some are free."""
    wanted, share_bytes = demand.gpus, demand.gpu_memory_bytes
    options = [_NOTHING]
    if share_bytes is None:
        most = max(0, _most(columns, IDLE, candidates))
    else:
        each = _most(columns, need.row, candidates)
        if each > 0:
            missing = share_bytes - each
            said = f"{whole_mib(missing)} MiB less memory on each GPU would fit"
            options.append((missing / share_bytes, said, Change(what="gpuMemory", by=missing)))
        rows = range(SHARE, SHARE + wanted - 1)
        most = sum(_most(columns, row, candidates) >= share_bytes for row in rows)
    if most:
        change = Change(what="gpus", by=wanted - most)
        options.append(((wanted - most) / wanted, f"{_gpus(wanted - most)} less would fit", change))
    elif share_bytes is None and wanted and _most(columns, DEVICES, candidates) >= wanted:
        # Of shares it is not said: the columns do not tell whether the devices would be large enough.
        options.append((1.0, f"free {_gpus(wanted)} on one node", Change(what="freeGpus", by=wanted)))
    return min(options, key=lambda option: option[0])


def _most(columns: Columns, row: int, candidates: Slots) -> int:
    return int(columns.rows[row].take(candidates).max())


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
