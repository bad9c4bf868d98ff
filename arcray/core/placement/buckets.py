"""Buckets: the copies of one model by where they are, cheapest first.

A *leaf* holds the copies of one place, a *branch* the buckets below it. A branch stands only where places fork off; the
names of wider buckets with the same copies lead to the same bucket.

What an item costs is one number, its *key*: the cost above, the rank of the node below, so that the least key is the
cheapest copy and ties go by node id. A bucket keeps its keys in one array and finds the least with one pass of numpy; a
long one keeps a bound for each block of 512. A branch has the heads of its buckets, as lower bounds: a bucket that got
dearer is put right only when a request comes upon it, one that got cheaper says so at once, as far up as it matters.

Rejected, for requests that also take and give back a slot at 100,000 nodes (on a machine where this takes 7 us): a heap
for each prefix with lazy deletion, 27 us; a tree of heaps, 12 us. Their entries are scattered, and every step in a heap
misses the processor's cache.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcray.core.ids import NodeId
from arcray.core.placement.ranks import RANK_BITS

__all__ = ["NEVER", "Bucket", "Copy", "Host", "Model"]

NEVER: Final = (1 << 62) - 1  # key of what takes nothing
_BLOCK: Final = 512
_FIRST: Final = 4

_Keys: TypeAlias = NDArray[np.int64]


class Host:
    """A node as its copies see it.

    Attributes:
        rank: its place among the node ids.
        merit: in millionths.
        utilization: in millionths.
        last_seen_s: its latest reading.
        watched: it takes nothing once that reading is stale.
        saturated: its utilization excludes it.
    """

    __slots__ = ("last_seen_s", "merit", "rank", "saturated", "schedulable", "utilization", "watched")

    def __init__(self) -> None:
        self.rank = 0
        self.merit = 0
        self.utilization = 0
        self.last_seen_s = 0.0
        self.watched = False
        self.schedulable = False
        self.saturated = False


class Copy:
    """One model on one node.

    Attributes:
        bucket: the leaf that it is in.
        index: its place there.
        slots: requests that it takes at a time; 0 once it is unloaded and only those in flight are remembered.
        cost: what choosing it costs, the way to it aside; None while it takes nothing.
        state: why, as the index counts it.
    """

    __slots__ = ("bucket", "cost", "host", "in_flight", "index", "model", "node_id", "slots", "state")

    def __init__(self, node_id: NodeId, host: Host, model: Model, state: int) -> None:
        self.node_id = node_id
        self.host = host
        self.model = model
        self.state = state
        self.bucket: Bucket = _NOWHERE
        self.index = -1
        self.slots = 0
        self.in_flight = 0
        self.cost: int | None = None


class Bucket:
    """Copies, or buckets with copies; never both.

    Attributes:
        name: the widest name that is its own.
        parent: the branch that it is in; None for the widest.
        index: its place there.
        least: no key is less.
        items: what the keys stand for.
    """

    __slots__ = ("_blocks", "_head", "_keys", "index", "items", "least", "name", "parent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.parent: Bucket | None = None
        self.index = -1
        self.least = NEVER
        self.items: list[Copy | Bucket] = []
        self._keys: _Keys = np.full(_FIRST, NEVER, np.int64)
        self._blocks: _Keys | None = None  # a lower bound for each block, once there are several
        self._head = -1  # index of the least key, while that is known

    def add(self, item: Copy | Bucket, key: int = NEVER) -> None:
        """Takes up an item."""
        index = item.index = len(self.items)
        self.items.append(item)
        if index == len(self._keys):
            self._keys = np.concatenate([self._keys, np.full(index, NEVER, np.int64)])
            if index >= _BLOCK:
                self._blocks = self._keys.reshape(-1, _BLOCK).min(axis=1)
        self.put(index, key)

    def discard(self, index: int) -> None:
        """Lets go of an item; the last one takes its place."""
        last = self.items.pop()
        key = int(self._keys[len(self.items)])
        self.put(len(self.items), NEVER)
        if index < len(self.items):
            self.items[index] = last
            last.index = index
            self.put(index, key)

    def put(self, index: int, key: int) -> None:
        """Changes a key."""
        self._keys[index] = key
        if self._blocks is not None and key < self._blocks[index // _BLOCK]:
            self._blocks[index // _BLOCK] = key
        if key < self.least:
            self.least, self._head = key, index
            if self.parent is not None and key < self.parent._keys[self.index]:  # noqa: SLF001  another bucket's
                self.parent.put(self.index, key)
        elif index == self._head and key != self.least:
            self._head = -1

    def best(self, now_s: float, stale_after_s: float, limit: int) -> Copy | None:
        """Returns the cheapest copy that takes a request now, None without one that costs up to ``limit``.

        Nothing is put right beyond the limit, so a far bucket costs one comparison while there is something near.
        """
        while self.least != NEVER and self.least >> RANK_BITS <= limit:
            if self._head < 0:
                self._find_head()
                continue
            item = self.items[self._head]
            if isinstance(item, Copy):
                host = item.host
                if not (host.watched and now_s - host.last_seen_s > stale_after_s):
                    return item
                self.put(self._head, NEVER)  # until its next reading
            else:
                found = item.best(now_s, stale_after_s, limit)
                if item.least == self.least:
                    return found
                self.put(self._head, item.least)
        return None

    def _find_head(self) -> None:
        blocks, keys = self._blocks, self._keys
        if blocks is None:
            head = int(keys.argmin())
        else:
            while True:
                block = int(blocks.argmin())
                head = block * _BLOCK + int(keys[block * _BLOCK : (block + 1) * _BLOCK].argmin())
                if keys[head] == blocks[block]:
                    break
                blocks[block] = keys[head]
        self._head, self.least = head, int(keys[head])


_NOWHERE: Final = Bucket("")


class Model:
    """The copies of one model and the tree of their buckets.

    Attributes:
        buckets: by name; several names may lead to one bucket.
        paths: buckets that a request looks into with their penalties, least first, by its origin; forgotten when
            buckets change.
        states: how many copies are in each state.
    """

    __slots__ = ("buckets", "copies", "paths", "states")

    def __init__(self, states: int) -> None:
        self.copies: dict[NodeId, Copy] = {}
        self.buckets: dict[str, Bucket] = {}
        self.paths: dict[tuple[str, str], tuple[tuple[Bucket, int], ...]] = {}
        self.states = [0] * states

    def enter(self, copy: Copy, homes: tuple[str, ...]) -> None:
        """Puts a copy where it belongs; makes the leaf, and the branch where it forks off, where they are missing."""
        place = homes[0]
        leaf = self.buckets.get(place)
        if leaf is None:
            self.paths.clear()
            fork = next((index for index, name in enumerate(homes) if name in self.buckets), len(homes))
            leaf = Bucket(place)
            if fork < len(homes):
                branch = self._fork(homes, fork)
                leaf.parent = branch
                branch.add(leaf)
            self.buckets.update(dict.fromkeys(homes[:fork], leaf))
        copy.bucket = leaf
        leaf.add(copy)

    def leave(self, copy: Copy, homes: tuple[str, ...]) -> None:
        """Takes a copy away, and the buckets that are empty then."""
        bucket = copy.bucket
        bucket.discard(copy.index)
        while not bucket.items:
            self.paths.clear()
            for name in homes:
                if self.buckets.get(name) is bucket:
                    del self.buckets[name]
            if bucket.parent is None:
                return
            bucket.parent.discard(bucket.index)
            bucket = bucket.parent

    def _fork(self, homes: tuple[str, ...], fork: int) -> Bucket:
        """Returns the branch at ``homes[fork]``, put there if a single narrower bucket stood for that name."""
        only, name = self.buckets[homes[fork]], homes[fork]
        if only.name == name:
            return only
        branch = Bucket(name)
        branch.parent = only.parent
        for wider in homes[fork:]:
            if self.buckets[wider] is only:
                self.buckets[wider] = branch
        if only.parent is not None:
            branch.index = only.index
            only.parent.items[only.index] = branch
        only.parent = branch
        branch.add(only, only.least)
        return branch
