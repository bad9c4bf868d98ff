"""Buckets: the copies of one model by where they are, cheapest first; a tree of small heaps.

A *leaf* holds the copies of one place, a *branch* the heads of the buckets below it. A branch stands only where places
fork off; the names of wider buckets with the same copies lead to the same bucket.

What is listed in a heap is a lower bound. A copy that got dearer stays listed where it is and is put right when a
request comes upon it; only one that got cheaper is listed anew, and in the branches above only as far as it changes
their heads. Under load that is what makes routing cheap: taking a slot costs nothing here, giving it back hardly more.
An entry that is no longer the listed one of its copy or bucket is outdated and thrown away when it comes to the top.

Rejected: one heap for each prefix with every copy in it. That is seven entries for each copy, and every step in a heap
of thousands misses the processor's cache: 27 us for a request at 100,000 nodes, against 10 us.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, TypeAlias

from arcray.core.ids import NodeId

__all__ = ["NEVER", "Branch", "Copy", "Host", "Leaf", "Model"]

NEVER: Final = 1 << 62  # cost of a copy that takes nothing
_SLACK: Final = 16  # outdated entries that are not worth a rebuild


class Host:
    """A node as its copies see it.

    Attributes:
        merit: in millionths.
        utilization: in millionths.
        last_seen_s: its latest reading.
        watched: it takes nothing once that reading is stale.
        saturated: its utilization excludes it.
    """

    __slots__ = ("last_seen_s", "merit", "saturated", "schedulable", "utilization", "watched")

    def __init__(self) -> None:
        self.merit = 0
        self.utilization = 0
        self.last_seen_s = 0.0
        self.watched = False
        self.schedulable = False
        self.saturated = False


class Copy:
    """One model on one node.

    Attributes:
        slots: requests that it takes at a time; 0 once it is unloaded and only those in flight are remembered.
        cost: what choosing it costs, the way to it aside; NEVER while it takes nothing.
        state: why, as the index counts it.
        watched: as its host's, here because every request asks.
        listed: its entry in the leaf's heap that counts.
    """

    __slots__ = ("cost", "host", "in_flight", "leaf", "listed", "model", "node_id", "slots", "state", "watched")

    def __init__(self, node_id: NodeId, host: Host, model: Model, leaf: Leaf, state: int) -> None:
        self.node_id = node_id
        self.host = host
        self.model = model
        self.leaf = leaf
        self.state = state
        self.slots = 0
        self.in_flight = 0
        self.cost = NEVER
        self.watched = host.watched
        self.listed: _CopyEntry | None = None

    def __lt__(self, _other: object) -> bool:
        """Never decides: entries are ordered by cost and node, and what they carry has only to be comparable."""
        return False


class Model:
    """The copies of one model and the tree they hang in.

    Attributes:
        buckets: by name; several names may lead to one bucket.
        paths: buckets that a request looks into with their penalties, least first, by its origin; forgotten when
            buckets change.
        states: how many copies are in each state.
    """

    __slots__ = ("buckets", "copies", "paths", "states")

    def __init__(self, states: int) -> None:
        self.copies: dict[NodeId, Copy] = {}
        self.buckets: dict[str, Branch | Leaf] = {}
        self.paths: dict[tuple[str, str], tuple[tuple[Branch | Leaf, int], ...]] = {}
        self.states = [0] * states

    def enter(self, homes: tuple[str, ...]) -> Leaf:
        """Returns the leaf of a place, with one member more; makes it, and the branch where it forks off, if needed."""
        place = homes[0]
        leaf = self.buckets.get(place)
        if leaf is None:
            self.paths.clear()
            fork = next((index for index, name in enumerate(homes) if name in self.buckets), len(homes))
            branch = self._fork(homes, fork) if fork < len(homes) else None
            leaf = Leaf(branch)
            if branch is not None:
                branch.width += 1
            self.buckets.update(dict.fromkeys(homes[:fork], leaf))
        assert isinstance(leaf, Leaf), "a place has no places within it"
        leaf.members += 1
        return leaf

    def leave(self, copy: Copy, homes: tuple[str, ...]) -> None:
        """Takes a copy off its leaf, and what is empty then off the tree."""
        copy.listed = None
        copy.leaf.members -= 1
        bucket: Branch | Leaf | None = copy.leaf if not copy.leaf.members else None
        while bucket is not None:
            self.paths.clear()
            for name in homes:
                if self.buckets.get(name) is bucket:
                    del self.buckets[name]
            bucket.listed = None
            parent = bucket.parent
            if parent is not None:
                parent.width -= 1
            bucket = parent if parent is not None and not parent.width else None

    def _fork(self, homes: tuple[str, ...], fork: int) -> Branch:
        """Returns the branch at ``homes[fork]``, put there if a single narrower bucket stood for that name."""
        only, name = self.buckets[homes[fork]], homes[fork]
        if isinstance(only, Branch) and only.name == name:
            return only
        branch = Branch(name, only.parent)
        branch.width = 1
        for wider in homes[fork:]:
            if self.buckets[wider] is only:
                self.buckets[wider] = branch
        only.parent, only.listed = branch, None
        if only.heap:
            branch.note_head(only, only.heap[0][0], only.heap[0][1])
        return branch


class Leaf:
    """The copies of one place.

    Attributes:
        heap: (cost, node, copy), each no more than what the copy costs now.
        members: copies that belong here, listed or not.
        parent: the branch above; None while there is no other place.
        listed: its entry in the parent's heap that counts.
    """

    __slots__ = ("heap", "listed", "members", "parent")

    def __init__(self, parent: Branch | None) -> None:
        self.parent = parent
        self.members = 0
        self.heap: list[_CopyEntry] = []
        self.listed: _BucketEntry | None = None

    def __lt__(self, _other: object) -> bool:
        return False  # as for copies

    def offer(self, copy: Copy) -> None:
        """Makes sure that a copy is found at its cost or before."""
        listed, cost = copy.listed, copy.cost
        if listed is not None and listed[0] <= cost:
            return
        heap = self.heap
        copy.listed = entry = (cost, copy.node_id, copy)
        heappush(heap, entry)
        if heap[0] is entry and self.parent is not None:
            self.parent.note_head(self, cost, copy.node_id)
        if len(heap) > 2 * self.members + _SLACK:
            heap[:] = [entry for entry in heap if entry[2].listed is entry]
            heapify(heap)

    def best(self, now_s: float, stale_after_s: float, limit: int) -> _CopyEntry | None:
        """Returns the entry of the cheapest copy that takes a request now, None without one up to ``limit``.

        Nothing is put right beyond the limit, so a far bucket costs one comparison while there is something near.
        """
        heap = self.heap
        while heap:
            entry = heap[0]
            cost, node_id, copy = entry
            if cost > limit:
                return None
            if copy.listed is not entry:
                heappop(heap)
            elif copy.cost == NEVER or (copy.watched and now_s - copy.host.last_seen_s > stale_after_s):
                heappop(heap)  # offered again when it takes requests again
                copy.listed = None
            elif copy.cost != cost:
                copy.listed = entry = (copy.cost, node_id, copy)
                heapreplace(heap, entry)
            else:
                return entry
        return None


class Branch:
    """The heads of the buckets below it.

    Attributes:
        heap: (cost, node, bucket), each no more than the head of that bucket.
        width: buckets below it, listed or not.
        parent: None for the widest.
        listed: its entry in the parent's heap that counts.
    """

    __slots__ = ("heap", "listed", "name", "parent", "width")

    def __init__(self, name: str, parent: Branch | None) -> None:
        self.name = name
        self.parent = parent
        self.width = 0
        self.heap: list[_BucketEntry] = []
        self.listed: _BucketEntry | None = None

    def __lt__(self, _other: object) -> bool:
        return False  # as for copies

    def note_head(self, bucket: Branch | Leaf, cost: int, node_id: NodeId) -> None:
        """Lists the new head of a bucket below, here and as far up as it matters."""
        branch: Branch | None = self
        while branch is not None:
            listed = bucket.listed
            if listed is not None and (listed[0], listed[1]) <= (cost, node_id):
                return
            heap = branch.heap
            bucket.listed = entry = (cost, node_id, bucket)
            heappush(heap, entry)
            if len(heap) > 2 * branch.width + _SLACK:
                heap[:] = [entry for entry in heap if entry[2].listed is entry]
                heapify(heap)
            bucket, branch = branch, branch.parent

    def best(self, now_s: float, stale_after_s: float, limit: int) -> _CopyEntry | _BucketEntry | None:
        """Returns an entry with cost and node of the cheapest copy that takes a request now, None beyond ``limit``."""
        heap = self.heap
        while heap:
            entry = heap[0]
            cost, node_id, bucket = entry
            if cost > limit:
                return None
            if bucket.listed is not entry:
                heappop(heap)
                continue
            bucket.best(now_s, stale_after_s, limit)
            if not bucket.heap:
                heappop(heap)
                bucket.listed = None
                continue
            head = bucket.heap[0]
            if head[0] == cost and head[1] == node_id:
                return entry
            bucket.listed = entry = (head[0], head[1], bucket)
            heapreplace(heap, entry)
        return None


_CopyEntry: TypeAlias = tuple[int, NodeId, Copy]
_BucketEntry: TypeAlias = tuple[int, NodeId, Branch | Leaf]
