"""Preemption: which work would have to end so that a demand that fits nowhere gets a place, and on which node.

What lives here: an index of the work that may be ended, and the choice. What does not: asking for the end, and keeping
the place free until then (``handlers/preemption``).

The choice, better first:

1. work of the lowest priority alone, before any of a higher one is touched;
2. the fewest victims of the higher of those priorities, then the fewest victims;
3. the least lost work: time since their placement, summed;
4. the fewest GPUs that they hold;
5. the node id.

Cost is bounded. One pass over the columns leaves the nodes where the demand fits if everything that may end there
ended, and ranks them by an estimate of how many would have to. What GPUs a node would then have is no sum, because work
that stays may share them; it is worked out once until the node changes, for at most ``_LOOKED_AT`` of them in a search.
Of what is left the first ``_CANDIDATES`` are looked at exactly, and the best of them is taken; when none of them serves
(their GPUs were not looked at yet) the next ones are, at most ``_MOST`` in all. On one node the victims are minimal:
none of them could be spared. Whether a single one suffices is tried first, so it is found whenever there is one; sets
of more are the better of two greedy ones, not the smallest there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arcray.core.ids import NodeId, WorkloadId
from arcray.core.placement.books import Books
from arcray.core.placement.columns import CPU, DISK, IDLE, MEMORY, Integers, Slots
from arcray.core.placement.engine import Engine
from arcray.core.placement.request import PlacementRequest
from arcray.core.resources import Allocation, Demand

__all__ = ["Preemption", "Reclaimable", "Victim"]

_CANDIDATES: Final = 16
_MOST: Final = 64
_COARSE: Final = (1 << 16) - 1
_FIRST_SLOTS: Final = 256
_LOOKED_AT: Final = 512  # nodes at most whose GPUs one search looks at anew, of those that changed: 10 ms
_UNSEEN: Final = -1
_COUNT: Final = 4  # row of a level: how many; the rows before it are cpu, memory, disk and devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """Work that may be ended for work of a higher priority.

    Args:
        priority: lower goes first, as everywhere.
        since_s: when it was placed, in seconds on the clock of the caller.
    """

    id: WorkloadId
    priority: int
    allocation: Allocation
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preemption:
    """What would make room.

    Args:
        allocation: what the demand gets once the victims have ended.
        victims: sorted by id.
    """

    node_id: NodeId
    allocation: Allocation
    victims: tuple[WorkloadId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A preemption and what it is compared by."""

    cost: tuple[int, int, float, int, NodeId]
    allocation: Allocation
    victims: tuple[WorkloadId, ...]


class Reclaimable:
    """The work that may be ended, by the slot of its node in the engine.

    Args:
        levels: the priorities whose work may be ended, highest first: a smaller number is a higher priority.

    Attributes:
        unfinished: the last search has not looked at the GPUs of all nodes; the next one goes on from there.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = tuple(levels)
        self.unfinished = False
        # By level: what all work of this or a lower priority holds on each node.
        self._sums: Integers = np.zeros((len(self._levels), _COUNT + 1, _FIRST_SLOTS), np.int64)
        # By level: what GPUs each node has left once all of that has ended, as ``Books`` say it, and the version of the
        # node's column at which that was so.
        self._after: Integers = np.zeros((len(self._levels), 1, _FIRST_SLOTS), np.int64)
        self._seen: Integers = np.full((len(self._levels), _FIRST_SLOTS), _UNSEEN, np.int64)
        self._on: dict[int, dict[WorkloadId, Victim]] = {}
        self._slot_of: dict[WorkloadId, int] = {}
        self._at_level = [0] * len(self._levels)

    def __len__(self) -> int:
        return len(self._slot_of)

    def __contains__(self, workload_id: object) -> bool:
        return workload_id in self._slot_of

    def add(self, slot: int, victim: Victim) -> None:
        """Takes up work that may be ended."""
        if slot >= self._sums.shape[2]:
            grown = max(slot + 1, 2 * self._sums.shape[2])
            more = grown - self._sums.shape[2]
            self._sums = np.pad(self._sums, ((0, 0), (0, 0), (0, more)))
            self._after = np.pad(self._after, ((0, 0), (0, 0), (0, more)))
            self._seen = np.pad(self._seen, ((0, 0), (0, more)), constant_values=_UNSEEN)
        self._slot_of[victim.id] = slot
        self._on.setdefault(slot, {})[victim.id] = victim
        self._count(slot, victim, 1)

    def discard(self, workload_id: WorkloadId) -> None:
        """Forgets work that has ended or is ending; unknown work changes nothing."""
        slot = self._slot_of.pop(workload_id, None)
        if slot is None:
            return
        here = self._on[slot]
        self._count(slot, here.pop(workload_id), -1)
        if not here:
            del self._on[slot]

    def any_below(self, priority: int) -> bool:
        """Returns whether there is any work that may be ended for work of this priority."""
        return any(count for level, count in zip(self._levels, self._at_level, strict=True) if level > priority)

    def choose(self, engine: Engine, request: PlacementRequest, priority: int, now_s: float) -> Preemption | None:
        """Returns what would make room for a request of this priority that fits nowhere; None when nothing would.

        Args:
            engine: the nodes, with everything that is held on them.
            now_s: the time, on the clock of the victims' ``since_s``.
        """
        self.unfinished = False
        if not self.any_below(priority):
            return None
        eligible = engine.eligible(request)
        for index in reversed(range(len(self._levels))):
            ceiling = self._levels[index]
            if ceiling <= priority:
                break
            if not self._at_level[index]:
                continue  # nothing that the level below did not have
            plan = self._best(engine, request.demand, index, eligible, now_s)
            if plan is not None:
                return Preemption(node_id=plan.cost[-1], allocation=plan.allocation, victims=plan.victims)
            if self.unfinished:
                return None  # before work of a higher priority is touched
        return None

    def _count(self, slot: int, victim: Victim, sign: int) -> None:
        own = self._levels.index(victim.priority)
        self._at_level[own] += sign
        held = victim.allocation
        amounts = (held.cpu_milli, held.memory_bytes, held.disk_bytes, len(held.gpus), 1)
        self._sums[: own + 1, :, slot] += sign * np.array(amounts, np.int64)
        self._seen[: own + 1, slot] = _UNSEEN

    def _best(self, engine: Engine, demand: Demand, level: int, eligible: Slots, now_s: float) -> _Plan | None:
        ceiling = self._levels[level]
        ranked = self._ranked(engine, demand, level, eligible)
        for first in range(0, len(ranked), _CANDIDATES):
            plans: list[_Plan] = []
            for slot in ranked[first : first + _CANDIDATES]:
                node_id = engine.node_at(slot)
                victims = [victim for victim in self._on[slot].values() if victim.priority >= ceiling]
                sets = _victim_sets(engine.books(node_id), demand, victims, now_s)
                plans += [_plan(node_id, chosen, allocation, ceiling, now_s) for chosen, allocation in sets]
            if plans:
                return min(plans, key=lambda plan: (plan.cost, plan.victims))
        return None

    def _ranked(self, engine: Engine, demand: Demand, level: int, eligible: Slots) -> list[int]:
        """Returns the nodes where the demand may fit afterwards, by how many victims that might take.

        Of nodes that rank equal the first in order of joining come first.
        """
        sums = self._sums[level]
        slots = eligible[eligible < sums.shape[1]]
        slots = slots[sums[_COUNT].take(slots) > 0]
        rows = engine.columns.rows
        wants = (
            (demand.cpu_milli, CPU),
            (demand.memory_bytes, MEMORY),
            (demand.disk_bytes, DISK),
            # A shared device that is given back in part need not become idle: a bound, which is made exact below.
            (demand.gpus if demand.gpu_memory_bytes is None else 0, IDLE),
        )
        for row, (wanted, column) in enumerate(wants):
            slots = slots[rows[column].take(slots) + sums[row].take(slots) >= wanted]
        if demand.gpus:
            slots = slots[self._have_gpus(engine, demand, level, slots)]
        count = sums[_COUNT].take(slots)
        estimate = np.ones(len(slots))
        for row, (wanted, column) in enumerate(wants):
            if wanted:
                missing = wanted - rows[column].take(slots)
                np.maximum(estimate, missing * (count / np.maximum(sums[row].take(slots), 1)), out=estimate)
        # Quarters of a victim in 16 bits, which are sorted by radix: ten times as fast as floats (measured).
        quarters = np.minimum(estimate * 4, _COARSE).astype(np.uint16)
        ranked: list[int] = slots[np.argsort(quarters, kind="stable")[:_MOST]].tolist()
        return ranked

    def _have_gpus(self, engine: Engine, demand: Demand, level: int, slots: Slots) -> NDArray[np.bool_]:
        """Returns which nodes have the GPUs once all work has ended that may; those not looked at may have them."""
        versions = engine.columns.versions
        stale = slots[self._seen[level].take(slots) != versions.take(slots)]
        self.unfinished = self.unfinished or len(stale) > _LOOKED_AT
        for slot in stale[:_LOOKED_AT].tolist():
            books = engine.books(engine.node_at(slot))
            for victim in self._on[slot].values():
                if victim.priority >= self._levels[level]:
                    books.give_back(victim.allocation)
            left = books.gpus_left()
            if len(left) > self._after.shape[1]:
                self._after = np.pad(self._after, ((0, 0), (0, len(left) - self._after.shape[1]), (0, 0)))
            self._after[level, :, slot] = 0
            self._after[level, : len(left), slot] = left
            self._seen[level, slot] = versions[slot]
        unseen: NDArray[np.bool_] = self._seen[level].take(slots) != versions.take(slots)
        share = demand.gpu_memory_bytes
        row, least = (0, demand.gpus) if share is None else (demand.gpus, share)
        if row >= self._after.shape[1]:
            return unseen  # no node has so many
        enough: NDArray[np.bool_] = unseen | (self._after[level, row].take(slots) >= least)
        return enough


def _victim_sets(
    books: Books, demand: Demand, victims: list[Victim], now_s: float
) -> Iterable[tuple[list[Victim], Allocation]]:
    """Yields minimal sets of victims on one node that make room, with what the demand then gets."""
    cheapest_last = sorted(victims, key=lambda v: (v.priority, -(now_s - v.since_s), -len(v.allocation.gpus), v.id))
    single = False
    for victim in reversed(cheapest_last):
        books.give_back(victim.allocation)
        allocation = books.fit(demand)
        books.take(victim.allocation)
        if allocation is not None:
            single = True
            yield [victim], allocation
            break
    if single:
        return
    largest_last = sorted(victims, key=lambda v: (len(v.allocation.gpus), v.allocation.cpu_milli, v.id))
    for order in (cheapest_last, largest_last):
        spared = _spare(books, demand, order)
        if spared is not None:
            yield spared


def _spare(books: Books, demand: Demand, order: list[Victim]) -> tuple[list[Victim], Allocation] | None:
    """Returns the victims that remain when as many as possible are spared, trying them in the given order.

    The books are as before afterwards.
    """
    for victim in order:
        books.give_back(victim.allocation)
    chosen = []
    allocation = books.fit(demand)
    possible = allocation is not None
    for victim in order if possible else ():
        books.take(victim.allocation)
        spared = books.fit(demand)
        if spared is None:
            books.give_back(victim.allocation)
            chosen.append(victim)
        else:
            allocation = spared
    for victim in chosen if possible else order:
        books.take(victim.allocation)
    return (chosen, allocation) if allocation is not None else None


def _plan(node_id: NodeId, victims: list[Victim], allocation: Allocation, ceiling: int, now_s: float) -> _Plan:
    highest = sum(victim.priority == ceiling for victim in victims)
    lost_s = sum(max(0.0, now_s - victim.since_s) for victim in victims)
    gpus = len({share.index for victim in victims for share in victim.allocation.gpus})
    return _Plan(
        cost=(highest, len(victims), lost_s, gpus, node_id),
        allocation=allocation,
        victims=tuple(sorted(victim.id for victim in victims)),
    )
