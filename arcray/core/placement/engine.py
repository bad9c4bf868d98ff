"""The engine: nodes come and go, allocations are held and released, and every request gets a place or a reason.

What lives here: the live state and the steps of a decision. What does not: why a node is refused (``filters``), which
one is best (``scores``), how it is found without a scan (``order``, ``eligibility``), what is said (``refusals``).

Invariants: what a node has free is its capacity minus everything allocated on it; ``place`` changes nothing; a
placement that is allocated at once never overcommits; equal nodes and allocations give equal answers, whatever order
they came in.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from arcray.core.errors import NotFoundError
from arcray.core.ids import NodeId
from arcray.core.placement.books import Books
from arcray.core.placement.columns import OPEN, Columns, Slots, pair_bound
from arcray.core.placement.eligibility import Eligibility
from arcray.core.placement.explain import Explanation
from arcray.core.placement.filters import AWAY, FULL, RESOURCES, UNSCHEDULABLE, Words, minima, words
from arcray.core.placement.gpus import Devices
from arcray.core.placement.order import Order
from arcray.core.placement.refusals import Refusals
from arcray.core.placement.request import Free, Placement, PlacementNode, PlacementRequest
from arcray.core.placement.scores import Standing, name_of, standing
from arcray.core.resources import Allocation

__all__ = ["Engine"]

_NO_SLOTS: Final[Slots] = np.empty(0, np.int64)


class _Held:
    """A node and what is left of it.

    Attributes:
        name: the last of what its key is made of.
        key: where it stands in the order; None while it takes nothing.
        sharing: whether it stands among the nodes that share a GPU too.
        slices: how many are held on it.
    """

    __slots__ = (
        "cpu_milli", "devices", "disk_bytes", "key", "memory_bytes", "name", "node", "sharing", "slices", "slot",
    )  # fmt: skip

    def __init__(self, node: PlacementNode, slot: int) -> None:
        self.node = node
        self.name = name_of(node.id)
        self.slot = slot
        self.cpu_milli = 0
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.devices = Devices()
        self.key: Standing | None = None
        self.sharing = False
        self.slices = 0

    @property
    def room(self) -> int | None:
        """How many more slices it takes; None is as many as fit."""
        most = self.node.max_held
        return None if most is None else most - self.slices


class Engine:
    """The live index of all nodes. Not thread-safe: it has one writer, like all of core."""

    def __init__(self) -> None:
        self._columns = Columns()
        self._order = Order(self._columns)
        self._sharing = Order(self._columns)  # those of the same nodes that have room on a GPU that is shared already
        self._eligibility = Eligibility(self._columns, self._mark_anew)
        self._held: dict[NodeId, _Held] = {}
        self._by_slot: list[_Held] = []
        self._ids: list[NodeId] = []  # by slot; of the last node there once it has left
        self._refusals = Refusals(self._columns, self._ids, self._words)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._held

    def upsert(self, node: PlacementNode) -> None:
        """Takes a node up, or takes over what changed of it; what is allocated on it stays allocated."""
        held = self._held.get(node.id)
        if held is None:
            held = self._open(node)
            before = None
        else:
            before = held.node
        capacity = node.capacity
        held.cpu_milli += capacity.cpu_milli - (before.capacity.cpu_milli if before else 0)
        held.memory_bytes += capacity.memory_bytes - (before.capacity.memory_bytes if before else 0)
        held.disk_bytes += capacity.disk_bytes - (before.capacity.disk_bytes if before else 0)
        held.node = node
        self._leave_order(held)
        if before is None or (before.capacity.gpus, before.closed_gpus) != (capacity.gpus, node.closed_gpus):
            held.devices.resize(capacity.gpus, node.closed_gpus)
        if before is None or before.features != node.features or before.labels != node.labels:
            if before is not None:
                self._eligibility.dismiss(held.slot, before.labels)
            self._eligibility.admit(held.slot, node.features, node.labels)
        self._settle(held, gpus=True)

    def remove(self, node_id: NodeId) -> None:
        """Forgets a node and what was allocated on it; forgetting an unknown one changes nothing."""
        held = self._held.pop(node_id, None)
        if held is None:
            return
        self._leave_order(held)
        self._eligibility.dismiss(held.slot, held.node.labels)
        self._columns.close_slot(held.slot)
        self._refusals.changed(held.slot)

    def allocate(self, node_id: NodeId, allocation: Allocation) -> None:
        """Holds a slice of a node. Never refuses: recovery may hold more than a shrunken node has.

        Raises:
            NotFoundError: no such node.
        """
        held = self._find(node_id)
        self._leave_order(held)
        held.cpu_milli -= allocation.cpu_milli
        held.memory_bytes -= allocation.memory_bytes
        held.disk_bytes -= allocation.disk_bytes
        held.slices += 1
        if allocation.gpus:
            held.devices.take(allocation.gpus)
        self._settle(held, gpus=bool(allocation.gpus))

    def release(self, node_id: NodeId, allocation: Allocation) -> None:
        """Takes a held slice off; the allocation is one that was held on this node.

        Raises:
            NotFoundError: no such node.
        """
        held = self._find(node_id)
        self._leave_order(held)
        held.cpu_milli += allocation.cpu_milli
        held.memory_bytes += allocation.memory_bytes
        held.disk_bytes += allocation.disk_bytes
        held.slices -= 1
        if allocation.gpus:
            held.devices.give_back(allocation.gpus)
        self._settle(held, gpus=bool(allocation.gpus))

    def place(self, request: PlacementRequest) -> Placement | Explanation:
        """Returns the best place, or why there is none. Holds nothing."""
        if request.demand.gpus:
            self._require_rows(request.demand.gpus)
        known = self._refusals.known(request)
        if known is not None:
            return known
        slot = self._best_slot(request)
        if slot is None:
            return self._refusals.explain(request)
        held = self._by_slot[slot]
        demand = request.demand
        shares = held.devices.choose(demand) if demand.gpus else ()
        assert shares is not None, "the columns promised GPUs that the node does not have"
        return Placement(
            node_id=held.node.id,
            allocation=Allocation(
                cpu_milli=demand.cpu_milli,
                memory_bytes=demand.memory_bytes,
                disk_bytes=demand.disk_bytes,
                gpus=shares,
            ),
        )

    def explain(self, request: PlacementRequest) -> Explanation:
        """Returns how the request stands with every node, whether any fits or not."""
        self._require_rows(request.demand.gpus)
        return self._refusals.explain(request)

    def free(self, node_id: NodeId) -> Free:
        """Returns what a node has left.

        Raises:
            NotFoundError: no such node.
        """
        held = self._find(node_id)
        return Free(
            cpu_milli=held.cpu_milli,
            memory_bytes=held.memory_bytes,
            disk_bytes=held.disk_bytes,
            gpus=held.devices.idle,
            overcommitted_gpus=held.devices.overcommitted,
        )

    @property
    def columns(self) -> Columns:
        """What is free by slot; to be read only."""
        return self._columns

    def slot(self, node_id: NodeId) -> int:
        """Returns the slot of a node, which is its own until it is removed.

        Raises:
            NotFoundError: no such node.
        """
        return self._find(node_id).slot

    def node_at(self, slot: int) -> NodeId:
        """Returns the node of a slot."""
        return self._ids[slot]

    def books(self, node_id: NodeId) -> Books:
        """Returns a copy of a node's books, to try on it what would be.

        Raises:
            NotFoundError: no such node.
        """
        held = self._find(node_id)
        return Books(held.cpu_milli, held.memory_bytes, held.disk_bytes, held.devices.copy(), room=held.room)

    def eligible(self, request: PlacementRequest) -> Slots:
        """Returns the slots of the nodes that could take the request if they had enough free, in order of joining."""
        self._require_rows(request.demand.gpus)
        found: Slots = np.flatnonzero(self._words(request, None) & ~RESOURCES == 0)
        return found

    def admits(self, node_id: NodeId, request: PlacementRequest) -> bool:
        """Returns whether a node could take the request if it had enough free; False for an unknown node."""
        held = self._held.get(node_id)
        if held is None:
            return False
        self._require_rows(request.demand.gpus)
        return not int(self._words(request, np.array([held.slot], np.int64))[0]) & ~int(RESOURCES)

    def _find(self, node_id: NodeId) -> _Held:
        held = self._held.get(node_id)
        if held is None:
            raise NotFoundError(f"no node {node_id} to place on")
        return held

    def _best_slot(self, request: PlacementRequest) -> int | None:
        demand = request.demand
        if request.node_id is not None:
            slot = self._slot_of(request.node_id)
            return None if slot < 0 else self._best_of(request, np.array([slot], np.int64))
        scope = self._eligibility.scope(request.wants, request.selector)
        if scope.slots is not None:
            return self._best_of(request, scope.slots)
        mark = 0 if scope.count == self._eligibility.nodes else scope.mark
        wanted = minima(demand)
        paired = demand.cpu_milli and demand.memory_bytes
        bounds = (pair_bound(demand.cpu_milli, demand.memory_bytes),) if paired else ()
        without = {self._slot_of(node_id) for node_id in request.avoid} if request.avoid else ()
        if demand.gpu_memory_bytes is not None:  # the first score: without opening an idle GPU, if that can be
            sharing = [*wanted, (OPEN, demand.gpu_memory_bytes)]
            found = self._sharing.first(sharing, bounds, mark, without)
            if found is not None:
                return found
        return self._order.first(wanted, bounds, mark, without)

    def _best_of(self, request: PlacementRequest, slots: Slots) -> int | None:
        """Returns the best of a few slots, looking at each."""
        fitting = slots[self._words(request, slots) == 0]
        share_bytes = request.demand.gpu_memory_bytes
        if share_bytes is not None:
            sharing = fitting[self._columns.rows[OPEN].take(fitting) >= share_bytes]
            fitting = sharing if len(sharing) else fitting
        return min(fitting.tolist(), key=self._standing, default=None)

    def _standing(self, slot: int) -> Standing:
        key = self._by_slot[slot].key
        assert key is not None, "a node that fits stands in the order"
        return key

    def _words(self, request: PlacementRequest, slots: Slots | None) -> Words:
        pinned = None if request.node_id is None else self._slot_of(request.node_id)
        avoided = _NO_SLOTS
        if request.avoid:
            avoided = np.fromiter(map(self._slot_of, request.avoid), np.int64, len(request.avoid))
        return words(self._columns, self._eligibility, request, pinned_slot=pinned, avoided_slots=avoided, slots=slots)

    def _slot_of(self, node_id: NodeId) -> int:
        held = self._held.get(node_id)
        return -1 if held is None else held.slot

    def _open(self, node: PlacementNode) -> _Held:
        slot = self._columns.open_slot()
        held = self._held[node.id] = _Held(node, slot)
        if slot == len(self._by_slot):
            self._by_slot.append(held)
            self._ids.append(node.id)
        else:
            self._by_slot[slot] = held
            self._ids[slot] = node.id
        return held

    def _leave_order(self, held: _Held) -> None:
        if held.key is not None:
            self._order.discard(held.key)
            if held.sharing:
                self._sharing.discard(held.key)
            held.key = None

    def _settle(self, held: _Held, *, gpus: bool) -> None:
        """Writes what is free and puts the node where it belongs; the second half of every change."""
        devices, node, room = held.devices, held.node, held.room
        full = room is not None and room < 1
        self._columns.status[held.slot] = (
            UNSCHEDULABLE * (not node.schedulable) | AWAY * (not node.attached) | FULL * full
        )
        self._columns.write(held.slot, held.cpu_milli, held.memory_bytes, held.disk_bytes)
        if gpus:
            self._require_rows(devices.present)
            self._columns.write_gpus(
                held.slot, devices.idle, devices.open_bytes, devices.present, devices.shareable_bytes
            )
        overcommitted = held.cpu_milli < 0 or held.memory_bytes < 0 or held.disk_bytes < 0 or devices.idle < 0
        if node.schedulable and node.attached and not overcommitted and not full:
            held.key = standing(
                held.cpu_milli, held.memory_bytes, devices.idle, devices.present, tier=node.tier, name=held.name
            )
            self._order.add(held.slot, held.key)
            held.sharing = devices.open_bytes > 0
            if held.sharing:
                self._sharing.add(held.slot, held.key)
        self._refusals.changed(held.slot)

    def _require_rows(self, devices: int) -> None:
        if self._columns.require_devices(devices):
            self._order.add_rows()
            self._sharing.add_rows()

    def _mark_anew(self) -> None:
        self._order.mark_anew()
        self._sharing.mark_anew()
